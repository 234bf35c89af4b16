"""The command line, as a person types it: what it writes, and one line with exit code 2 for
everything that is wrong.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_diabetes

from lowerbound.cli import COMMANDS
from lowerbound.config.recipes import recipe_names
from lowerbound.data import NAMED
from lowerbound.data.dataset import Stored
from tests.cli.conftest import Command

RNG = np.random.default_rng(0)


def process(*argv: object, **settings: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "lowerbound", *map(str, argv)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings,
    )  # fmt: skip


def finish(*argv: object, **settings: object) -> tuple[int, str]:
    """Run the command in a process of its own to its end: exit code, standard error."""
    running = process(*argv, **settings)
    _, err = running.communicate(timeout=120)
    return running.returncode, err


def test_a_run_folder_holds_all_that_is_promised(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()} - {".lock", "evaluation-valid.json"}
    assert names == {
        "config.yaml",
        "model.safetensors",
        "metrics.jsonl",
        "evaluation.json",
        "sheet.png",
        "report.html",
        "checkpoint",
    }
    evaluation = json.loads((trained / "evaluation.json").read_text())
    assert {
        "split",
        "samples",
        "n",
        "estimator",
        "elbo",
        "nll",
        "bits_per_dim",
        "rate",
        "distortion",
        "active_units",
    } <= set(evaluation)
    assert evaluation["nll"]["n"] == 180
    with Image.open(trained / "sheet.png") as image:
        assert image.size[0] > 500


def test_training_its_configuration_again_repeats_the_run(trained: Path, command: Command) -> None:
    code, _, _ = command(
        "train", "--config", trained / "config.yaml", "--out", "again", "--quiet", "--samples", 5
    )
    assert code == 0
    for name in ("model.safetensors", "config.yaml", "evaluation.json"):
        assert (trained / name).read_bytes() == Path("again", name).read_bytes()


def test_overrides_reach_every_constructor(command: Command) -> None:
    code, out, err = command(
        "train",
        "digits",
        "--latent",
        "[2,3]",
        "--likelihood",
        "Normal",
        "--likelihood.scale",
        "0.5",
        "--posterior.network.hidden",
        "[8, 9]",
        "--posterior.network.activation",
        "Tanh",
        "--objective.beta=2",
        "--objective.kl",
        "sampled",
        "--batch-size",
        500,
        "--learning-rate",
        "1e-4",
        "--epochs",
        1,
        "--data.binarize",
        "threshold",
        "--samples",
        2,
    )
    assert (code, Path("runs/digits-1").is_dir()) == (0, True), err
    config = yaml.safe_load(Path("runs/digits-1/config.yaml").read_text())
    assert config["latent"] == [2, 3]
    assert config["likelihood"]["scale"] == 0.5
    assert config["posterior"]["network"] == {
        "part": "MLP", "hidden": [8, 9], "activation": "Tanh", "batch_norm": False,
    }  # fmt: skip
    assert (config["objective"]["beta"], config["objective"]["kl"]) == (2.0, "sampled")
    assert (config["batch_size"], config["learning_rate"]) == (500, 1e-4)
    assert config["data"]["binarize"] == "threshold"
    assert "Normal" in out
    assert len(err.splitlines()) == 1  # one plain line an epoch where there is no terminal


def test_counts_train_by_a_negative_binomial(command: Command) -> None:
    rate = (
        2000 * np.exp(RNG.standard_normal((300, 1)) * [1, -1, 0.5]) * RNG.gamma(10, 0.1, (300, 3))
    )
    np.save("counts.npy", RNG.poisson(rate))
    np.savetxt("counts.csv", RNG.poisson(rate), "%d", ",")
    for file in ("counts.npy", "counts.csv"):
        code, _, err = command(
            "train",
            file,
            "--likelihood",
            "NegativeBinomial",
            "--latent",
            1,
            "--epochs",
            20,
            "--samples",
            5,
            "--learning-rate",
            "1e-2",
            "--out",
            file[-3:],
        )
        assert code == 0, err
        losses = [
            json.loads(line) for line in Path(file[-3:], "metrics.jsonl").read_text().splitlines()
        ]
        assert math.isfinite(
            json.loads(Path(file[-3:], "evaluation.json").read_text())["nll"]["value"]
        )
        assert len(losses) >= 20
    np.save("signed.npy", RNG.poisson(rate) - 1000)
    code, _, err = command("train", "signed.npy", "--likelihood", "NegativeBinomial", "--epochs", 1)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "a density on the counts {0, 1, 2, ...}" in err
    assert "lies on the integers; remedies: choose another likelihood (Normal)" in err


def test_levels_by_a_mixture_of_logistics(command: Command) -> None:
    np.save("colours.npy", RNG.integers(0, 256, (30, 3, 4, 4), np.uint8))
    for data, levels in (("digits", 17), ("colours.npy", 256)):
        code, _, err = command(
            "train",
            data,
            "--likelihood",
            "DiscretizedLogisticMixture",
            "--likelihood.components",
            3,
            "--latent",
            2,
            "--epochs",
            1,
            "--samples",
            2,
            "--out",
            f"run-{levels}",
        )
        assert code == 0, err
        likelihood = yaml.safe_load(Path(f"run-{levels}/config.yaml").read_text())["likelihood"]
        assert (likelihood["components"], likelihood["levels"]) == (3, levels)
        assert (
            json.loads(Path(f"run-{levels}/evaluation.json").read_text())["bits_per_dim"]
            is not None
        )


def test_priors_that_are_mixtures(command: Command) -> None:
    for part in ("Mixture", "VampPrior"):
        code, _, err = command(
            "train",
            "digits",
            "--prior",
            part,
            "--prior.components",
            7,
            "--latent",
            2,
            "--epochs",
            1,
            "--samples",
            2,
            "--out",
            part,
        )
        assert code == 0, err
        assert yaml.safe_load(Path(part, "config.yaml").read_text())["prior"] == {
            "part": part,
            "components": 7,
        }
        for argv in (
            ("evaluate", part, "--estimator", "ais", "--temperatures", 3, "--examples", 4),
            ("sandwich", part, "-n", 3, "--temperatures", 3),
            ("gaps", part, "-n", 7, "--temperatures", 3, "--steps", 9),
            ("manifold", part, "--out", "plane.png"),
            ("report", part),
        ):
            code, _, err = command(*argv)
            assert code == 0, (argv, err)


def test_a_training_that_fails_says_why_and_leaves_nothing(command: Command) -> None:
    code, _, err = command(
        "train", "digits", "--prior", "VampPrior", "--prior.components", 5000, "--out", "run"
    )
    assert code == 2
    assert (
        "components is 5000, and each pseudo-input starts at another training example, of which "
        "there are 1437" in err
    )
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("array", "likelihood"),
    [
        (RNG.integers(0, 2, (40, 6), dtype=np.uint8), "Bernoulli"),
        (RNG.integers(0, 256, (40, 5, 7), dtype=np.uint8), "Normal"),
        (RNG.normal(size=(40, 3)), "Normal"),
        (RNG.normal(size=40), "Normal"),
    ],
)
def test_the_default_model_follows_from_the_users_data(
    command: Command, array: np.ndarray, likelihood: str
) -> None:
    np.save("mes données.npy", array)
    code, out, err = command(
        "train", "mes données.npy", "--epochs", 1, "--samples", 2, "--latent", 2
    )
    assert code == 0, err
    assert f"part: {likelihood}" in out
    run = Path("runs/mes données-1")
    assert run.is_dir()
    assert command("encode", run, "mes données.npy", "--out", "z.npy")[0] == 0
    assert np.load("z.npy").shape == (40, 2)
    assert command("score", run, "mes données.npy", "--out", "s.npy", "--samples", 3)[0] == 0
    assert np.load("s.npy").shape == (40,)
    assert command("sample", run, "-n", 6, "--out", "x.npy")[0] == 0
    assert np.load("x.npy").shape == (6, *array.shape[1:])


def photos(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """A folder of colour pictures in two classes."""
    for i, size in enumerate(sizes):
        path = folder / "ab"[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return folder


def test_a_folder_is_read_as_the_run_read_its_own(command: Command) -> None:
    photos(Path("mes photos"), [(8, 9), (12, 7)] * 15)
    photos(Path("autres"), [(20, 10), (9, 9), (30, 31)])
    code, out, err = command(
        "train",
        "mes photos",
        "--data.size",
        "[8,6]",
        "--data.dequantize",
        "true",
        "--data.flip",
        "true",
        "--data.shift",
        1,
        "--epochs",
        1,
        "--latent",
        2,
        "--samples",
        2,
        "--out",
        "run",
    )
    assert code == 0, err
    assert "3x8x6, on the interval [0, 1]" in out
    config = yaml.safe_load(Path("run/config.yaml").read_text())["data"]
    assert [config[key] for key in ("size", "dequantize", "flip", "shift", "levels")] == [
        [8, 6],
        True,
        True,
        1,
        256,
    ]
    assert json.loads(Path("run/evaluation.json").read_text())["bits_per_dim"]["value"] > 0
    before = Path("run/evaluation.json").read_bytes()
    assert command("evaluate", "run", "--samples", 2, "--curve")[0] == 0
    assert Path("run/evaluation.json").read_bytes() == before
    assert command("encode", "run", "autres", "--out", "z.npy")[0] == 0
    assert np.load("z.npy").shape == (3, 2)
    np.save("more.npy", RNG.integers(0, 256, (4, 3, 8, 6), dtype=np.uint8))
    assert (
        command("score", "run", "more.npy", "--samples", 2, "--out", "s.npy")[0] == 0
    )  # an array has no size to choose
    assert command("train", "--resume", "--out", "run", "--quiet", "--samples", 2)[0] == 0
    assert (
        command(
            "train", "--config", "run/config.yaml", "--out", "again", "--quiet", "--samples", 2
        )[0]
        == 0
    )
    assert (
        Path("again/model.safetensors").read_bytes() == Path("run/model.safetensors").read_bytes()
    )


def test_a_table_is_read_as_the_run_read_its_own(command: Command) -> None:
    rows = "".join(
        f"{a:.4f},{b:.4f},{'xyz'[i % 3]}\n" for i, (a, b) in enumerate(RNG.normal(size=(40, 2)))
    )
    Path("ma table.csv").write_text("a,b,species\n" + rows)
    code, out, err = command(
        "train",
        "ma table.csv",
        "--data.labels",
        "species",
        "--epochs",
        1,
        "--latent",
        1,
        "--samples",
        2,
        "--out",
        "run",
    )
    assert code == 0, err
    assert "32/4/4 train/valid/test, 2, on the real line" in out
    assert command("score", "run", "ma table.csv", "--samples", 2, "--out", "s.npy")[0] == 0
    np.save("more.npy", RNG.normal(size=(5, 2)))
    assert command("score", "run", "more.npy", "--samples", 2, "--out", "s.npy")[0] == 0


def test_a_table_in_its_own_units_trains_with_the_defaults(command: Command) -> None:
    """Columns of any size, each with a scale of its own: nobody has to standardise first."""
    x = load_diabetes(scaled=False).data
    np.savetxt(
        "patients.csv",
        np.c_[1e4 * x[:, 0], x[:, 1:]],
        delimiter=",",
        header="a,b,c,d,e,f,g,h,i,j",
        comments="",
    )
    code, out, err = command(
        "train", "patients.csv", "--epochs", 3, "--latent", 3, "--samples", 5, "--out", "run"
    )
    assert code == 0, err
    assert "scale: per_dimension" in out
    assert command("sample", "run", "-n", 500, "--out", "s.npy")[0] == 0
    drawn = np.load("s.npy")
    assert np.all(
        np.abs(drawn.mean(0) / (x.mean(0) * [1e4, *[1] * 9]) - 1) < 0.5
    )  # in the units of the table


def test_what_a_trained_model_is_for(trained: Path, command: Command) -> None:
    code, out, _ = command("evaluate", trained, "--split", "valid", "--samples", 7, "--json")
    content = json.loads(out)
    assert (code, content["split"], content["samples"]) == (0, "valid", 7)
    assert content == json.loads((trained / "evaluation-valid.json").read_text())
    assert json.loads((trained / "evaluation.json").read_text())["split"] == "test"
    code, out, _ = command("evaluate", trained, "--samples", 5)
    assert "nats (n = 180)" in out
    for argv in (
        ("sample", trained, "-n", 12, "--out", "s.png"),
        ("sample", trained, "-n", 12, "--mean", "--out", "m.png"),
        ("reconstruct", trained, "--out", "r.png"),
        ("reconstruct", trained, "digits", "-n", 3, "--out", "r.npy"),
        ("encode", trained, "digits", "--split", "train", "--out", "z.npy"),
    ):
        assert command(*argv)[0] == 0
    assert np.load("r.npy").shape == (3, 1, 8, 8)
    assert np.load("z.npy").shape == (1437, 4)
    for name in ("s.png", "m.png", "r.png"):
        with Image.open(name) as image:
            assert image.size[0] > 100


def test_encode_keeps_the_order_and_scale_of_a_file(trained: Path, command: Command) -> None:
    from sklearn.datasets import load_digits

    np.save("some.npy", load_digits().images[5:9].astype(np.uint8)[:, None])
    np.save("one.npy", load_digits().images[7:8].astype(np.uint8)[:, None])
    assert command("encode", trained, "some.npy", "--out", "some-z.npy")[0] == 0
    assert command("encode", trained, "one.npy", "--out", "one-z.npy")[0] == 0
    assert np.allclose(np.load("some-z.npy")[2], np.load("one-z.npy")[0], atol=1e-5)
    command("encode", trained, "digits", "--split", "all", "--out", "all-z.npy")
    assert np.allclose(np.load("some-z.npy"), np.load("all-z.npy")[5:9], atol=1e-5)


def test_cross_entropy_is_reported_as_such(command: Command) -> None:
    code, out, _ = command(
        "train", "--likelihood", "BinaryCrossEntropy", "--epochs", 1, "--out", "run"
    )
    assert code == 0
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    assert evaluation["elbo"] is evaluation["nll"] is evaluation["bits_per_dim"] is None
    assert evaluation["cross_entropy"]["value"] > 0
    assert "cross_entropy" in out
    assert "nll" not in out
    code, _, err = command("score", "run", "digits", "--out", "s.npy")
    assert code == 2
    assert "no log-density" in err
    assert not Path("s.npy").exists()
    train = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])["train"]
    assert train["elbo"] is None
    assert train["cross_entropy"] > 0


NARROW = {
    "vq-vae": (
        "--posterior.network.width",
        8,
        "--likelihood.network.width",
        8,
        "--likelihood.components",
        1,
        "--no-report",
    )
}
"""What keeps a recipe that is meant for a GPU within seconds."""


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_built_and_stepped_once(
    name: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On noise in the shape of its data, so that it needs no download and no time; the rest is the
    recipe's.
    """
    few = {"train": 500, "valid": 50, "test": 50}  # as many as the pseudo-inputs of the recipe vamp
    for source, shape, levels in (
        ("mnist", (1, 28, 28), 256), ("fashion_mnist", (1, 28, 28), 256),
        ("cifar10", (3, 32, 32), 256),
    ):  # fmt: skip
        x = RNG.integers(0, levels, (600, *shape), dtype=np.uint8)
        stored = Stored(x, np.arange(600) % 10, levels=levels, parts=few)
        monkeypatch.setattr(NAMED[source], "read", lambda stored=stored: stored)
    code, _, err = command(
        "train",
        "--config",
        name,
        "--epochs",
        1,
        "--samples",
        2,
        "--out",
        "run",
        *NARROW.get(name, ()),
    )
    assert code == 0, err
    assert {"title", "paper", "protocol", "published"} <= set(
        yaml.safe_load(command("recipes", name)[1])["about"]
    )


def test_help_explains_every_option(command: Command) -> None:
    code, out, _ = command("--help")
    assert code == 0
    for name, (_, summary) in COMMANDS.items():
        assert name in out
        assert summary in out
        code, text, _ = command(name, "--help")
        assert code == 0
        assert f"usage: lowerbound {name}" in text
        assert "==SUPPRESS==" not in text
    _, text, _ = command("train", "--likelihood", "Normal", "--help")
    assert "--likelihood.scale" in text
    assert "learns one log-scale" in " ".join(text.split())
    assert "--batch-size" in text
    for option in (
        "--out",
        "--resume",
        "--overwrite",
        "--quiet",
        "--config",
        "--device",
        "--precision",
        "--seed",
    ):
        assert option in text


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    with process("train", "--help") as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()  # as head does when it has its lines
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_the_top_level_help_needs_no_torch() -> None:
    code = (
        "import sys; from lowerbound.cli import main; "
        "main(['--help']); sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


def test_importing_changes_nothing_in_torch() -> None:
    code = """
import torch
from torch.distributions import Distribution, kl
def state():
    return (
        Distribution._validate_args, torch.get_default_dtype(), torch.get_num_threads(),
        len(kl._KL_REGISTRY),
    )
before = state()
import lowerbound as lb
for name in dir(lb): getattr(lb, name)
assert before == state()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lists(command: Command) -> None:
    assert "notebook-mlp" in command("recipes")[1]
    out = command("data")[1]
    for name in (
        "cifar10",
        "digits",
        "mnist",
        "mnist_static",
        "fashion_mnist",
        "FILE.csv",
        "FOLDER",
    ):
        assert name in out


WRONG = {
    "unknown command": (["tarin"], "did you mean 'train'"),
    "unknown option": (["train", "--epocs", "3"], "did you mean --epochs"),
    "unknown nested option": (
        ["train", "--posterior.network.hiden", "[3]"],
        "did you mean --posterior.network.hidden",
    ),
    "a setting the part has not": (
        ["train", "--likelihood", "Bernoulli", "--likelihood.scale", "1"],
        "unknown option --likelihood.scale",
    ),
    "unknown data": (["train", "dgits"], "did you mean 'digits'"),
    "unknown recipe": (["train", "--config", "notebok-mlp"], "did you mean 'notebook-mlp'"),
    "unknown part": (["train", "--likelihood", "Bernouli"], "did you mean 'Bernoulli'"),
    "missing file": (["train", "none.npy"], "there is no file none.npy"),
    "missing config": (["train", "--config", "none.yaml"], "No such file or directory: none.yaml"),
    "grey for Bernoulli": (["train", "--likelihood", "Bernoulli"], "binarise"),
    "code as a part": (["train", "--likelihood", "os.system"], "not trusted"),
    "a yaml tag": (["train", "--config", "tag.yaml"], "is not plain YAML"),
    "code in a config": (["train", "--config", "code.yaml"], "not trusted"),
    "an unknown key in a config": (
        ["train", "--config", "key.yaml"],
        "unknown option --latnt; did you mean --latent",
    ),
    "a config of a newer format": (["train", "--config", "newer.yaml"], "format 99"),
    "latent 0": (["train", "--latent", "0"], "at least 1"),
    "batch size 0": (["train", "--batch-size", "0"], "batch_size is 0"),
    "negative epochs": (["train", "--epochs", "-1"], "epochs is -1"),
    "not a number": (["train", "--epochs", "many"], "--epochs: expected int, not 'many'"),
    "negative beta": (["train", "--objective.beta", "-1"], "beta is -1.0"),
    "no device": (["train", "--device", "cuda:9"], "is not there; this machine has"),
    "no precision": (["train", "--precision", "fp8"], "--precision: expected one of '32-true'"),
    "an extra argument": (["evaluate", "x", "y", "z"], "'z' is one argument too many"),
    "an empty folder name": (["train", "--out", ""], "name is empty"),
    "orders in a configuration": (
        ["train", "--config", "out.yaml"],
        "overwrite belongs on the command line",
    ),
    "a score outside its range": (
        ["train", "real.npy", "--likelihood", "BinaryCrossEntropy"],
        "is a score on the interval",
    ),
    "no levels": (["train", "real.npy", "--likelihood", "Categorical"], "say how many grey levels"),
    "a seed too large": (["train", "--seed", "99999999999999999999999"], "below 2**63"),
    "no text": (["train", "--config", "bytes.yaml"], "bytes.yaml is not plain YAML"),
    "two data": (["train", "digits", "mnist"], "one DATA is expected"),
    "resume what": (["train", "--resume"], "say which run to resume"),
    "resume nothing": (["train", "--resume", "--out", "nowhere"], "there is no run folder nowhere"),
    "resume with a config": (
        ["train", "--resume", "--out", "x", "--config", "y"],
        "leave out --config",
    ),
    "K = 0 at the end of training": (["train", "--samples", "0"], "samples is 0"),
    "a table with text": (["train", "text.csv"], "row 2, column 'b' holds the text 'red'"),
    "a folder without pictures": (["train", "empty folder"], "empty folder holds no pictures"),
    "a size of arrays": (
        ["train", "digits", "--data.size", "[8,8]"],
        "size (--data.size) is for a folder of pictures",
    ),
    "a size that is no list": (["train", "digits", "--data.size", "8"], "--data.size: expected"),
    "dequantising reals": (
        ["train", "real.npy", "--data.dequantize", "true"],
        "only data on grey levels",
    ),
    "flipping a table": (["train", "real.npy", "--data.flip", "true"], "flip is for pictures"),
    "a shift beyond the picture": (["train", "digits", "--data.shift", "8"], "at most 7"),
    "no run": (["evaluate", "nowhere"], "there is no run folder nowhere"),
    "no run named": (["evaluate"], "missing: RUN"),
    "not a run": (["evaluate", "."], "not a run folder"),
    "unknown option of another command": (
        ["evaluate", "x", "--sampels", "3"],
        "did you mean --samples",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(case: str, command: Command) -> None:
    Path("tag.yaml").write_text("a: !!python/object/apply:os.system ['touch pwned']")
    Path("code.yaml").write_text("likelihood: {part: Normal, network: {part: os.system}}")
    Path("key.yaml").write_text("latnt: 3")
    Path("newer.yaml").write_text("format: 99")
    Path("out.yaml").write_text("overwrite: true")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    np.save("real.npy", RNG.normal(size=(30, 3)))
    Path("text.csv").write_text("a,b\n1,red\n")
    Path("empty folder").mkdir()
    np.save("real.npy", np.linspace(-1, 1, 60).reshape(20, 3))
    before = sorted(os.listdir())
    argv, message = WRONG[case]
    code, out, err = command(*argv)
    assert code == 2
    assert message in err
    assert err.startswith("lowerbound: error: ")
    assert len(err.splitlines()) == 1
    assert out == ""
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("evaluate", "--samples", "0"), "samples is 0"),
        (("evaluate", "--split", "tset"), "did you mean 'test'"),
        (("sample", "-n", "0", "--out", "a.npy"), "n is 0"),
        (("sample", "-n", "3"), "say which file to write"),
        (("sample", "-n", "3", "--out", "a.jpg"), "must end in .npy, .csv or .png"),
        (("sample", "-n", "3", "--out", "no/folder/a.npy"), "there is no folder no/folder"),
        (("encode", "digits", "--out", "a.png"), "must end in .npy"),
        (
            ("encode", "wrong.npy", "--out", "a.npy"),
            "examples of shape (9,), and the model was built for (1, 8, 8)",
        ),
        (("encode", "real.npy", "--out", "a.npy"), "values that are not among the 17 levels"),
        (("encode", "nan.npy", "--out", "a.npy"), "1 of 64 values that are NaN"),
        (("score", "digits", "--samples", "0", "--out", "a.npy"), "samples is 0"),
    ],
)
def test_bad_input_to_a_trained_model(
    argv: tuple[str, ...], message: str, trained: Path, command: Command
) -> None:
    np.save("wrong.npy", np.zeros((3, 9)))
    np.save("real.npy", RNG.normal(size=(3, 1, 8, 8)))
    np.save(
        "nan.npy",
        np.full((1, 1, 8, 8), 0.5) + np.where(np.arange(64) == 3, np.nan, 0).reshape(1, 1, 8, 8),
    )
    code, _, err = command(argv[0], trained, *argv[1:])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not {"a.npy", "a.png", "a.jpg"} & set(os.listdir())


def test_changed_data_are_noticed(command: Command) -> None:
    array = RNG.normal(size=(40, 3))
    np.save("mine.npy", array)
    assert command("train", "mine.npy", "--epochs", 1, "--out", "run", "--samples", 2)[0] == 0
    np.save("mine.npy", array + 1)
    for argv in (
        ("evaluate", "run"),
        ("train", "--resume", "--out", "run"),
        ("train", "--config", "run/config.yaml", "--out", "b"),
    ):
        code, _, err = command(*argv)
        assert code == 2
        assert "SHA-256" in err or "other data" in err
    assert (
        command("train", "mine.npy", "--config", "run/config.yaml", "--out", "c", "--samples", 2)[0]
        == 0
    )


def test_an_existing_run_is_kept_unless_told(trained: Path, command: Command) -> None:
    before = (trained / "model.safetensors").read_bytes()
    code, _, err = command("train", "--epochs", 1, "--out", trained)
    assert code == 2
    assert "holds another run" in err
    code, _, err = command("train", "--resume", "--out", trained, "--epochs", 5)
    assert code == 2
    assert "epochs: 2 then, 5 now" in err
    assert (trained / "model.safetensors").read_bytes() == before


def test_a_missing_extra_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    code, _, err = command("train", "--epochs", 1, "--precision", "bf16-mixed")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "lightning_fabric" in err


def wait_for_epochs(folder: Path, count: int) -> None:
    """Until so many epochs are recorded."""
    for _ in range(600):
        if (folder / "metrics.jsonl").is_file() and len(
            (folder / "metrics.jsonl").read_text().splitlines()
        ) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("training did not get that far in 30 s")


SMALL = (
    "train",
    "digits",
    "--latent",
    "2",
    "--data.binarize",
    "threshold",
    "--samples",
    "2",
    "--quiet",
)


def records(folder: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "examples_per_second")}
        for line in lines
    ]


def test_a_killed_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    settings = (*SMALL, "--epochs", "40", "--checkpoint-seconds", "0.05")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert finish(*settings, "--out", whole)[0] == 0
    first = process(*settings, "--out", killed)
    for epochs in (2, 17):
        wait_for_epochs(killed, epochs)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert first.returncode == -signal.SIGKILL
        first = process("train", "--resume", "--out", killed, "--quiet", "--samples", "2")
    _, err = first.communicate(timeout=120)
    assert first.returncode == 0, err
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (killed / "evaluation.json").read_bytes() == (whole / "evaluation.json").read_bytes()
    assert records(killed) == records(whole)


def test_ctrl_c_saves_stops_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = process(*SMALL, "--epochs", "100000", "--out", out)
    wait_for_epochs(out, 2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert f"go on with: lowerbound train --resume --out {out}" in err
    assert "Traceback" not in err
    assert (out / "model.safetensors").is_file()
    assert not list(out.rglob("*.tmp"))


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: a write fails in the middle in
    both.
    """
    out = tmp_path / "run"
    settings = (*SMALL, "--epochs", "2", "--out", out)
    assert finish(*settings)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # noqa: E731
    code, err = finish("sample", out, "-n", 5000, "--out", tmp_path / "x.npy", preexec_fn=limit)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "File too large" in err
    code, err = finish(*SMALL, "--epochs", "2", "--out", tmp_path / "other", preexec_fn=limit)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    assert not (tmp_path / "x.npy").exists()
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_processes_on_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = process(*SMALL, "--epochs", "100000", "--out", out)
    try:
        wait_for_epochs(out, 1)
        code, err = finish("train", "--resume", "--out", out)
        assert code == 2
        assert "in use by another process" in err
    finally:
        running.kill()
        running.communicate()


def test_a_closed_pipe_is_no_traceback(trained: Path) -> None:
    script = f"{sys.executable} -m lowerbound train --help | head -1"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_other_peoples_files_are_never_touched(command: Command) -> None:
    Path("model").mkdir()
    Path("model/model.safetensors").write_bytes(b"theirs")
    for extra in ((), ("--overwrite",)):
        code, _, err = command("train", "--epochs", 1, "--out", "model", *extra)
        assert code == 2
        assert "not the folder of a run" in err
    Path("model/config.yaml").write_text("theirs: 1")
    assert command("train", "--epochs", 1, "--out", "model", "--overwrite")[0] == 2
    assert Path("model/model.safetensors").read_bytes() == b"theirs"
    assert Path("model/config.yaml").read_text() == "theirs: 1"
    assert set(os.listdir("model")) <= {"model.safetensors", "config.yaml", ".lock"}


def test_looking_at_a_model(trained: Path, command: Command) -> None:
    for argv in (
        ("traverse", trained, "--out", "t.png"),
        ("traverse", trained, "--dimensions", "[0, 2]", "--steps", 5, "--out", "d.png"),
        ("interpolate", trained, "-n", 3, "--out", "i.png"),
        ("report", trained),
    ):
        code, _, err = command(*argv)
        assert code == 0, err
    with Image.open("d.png") as image:
        assert image.size[0] > 2 * image.size[1]
    assert (
        command("train", "--latent", 2, "--epochs", 1, "--out", "plane", "--quiet", "--no-report")[
            0
        ]
        == 0
    )
    assert not Path("plane/report.html").exists()
    assert command("manifold", "plane", "--side", 5, "--out", "m.png")[0] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("manifold", "--out", "a.png"), "here there are 4"),
        (("traverse", "--out", "a.png", "--dimensions", "[9]"), "no latent dimension 9"),
        (("traverse", "--out", "a.png", "--example", "999"), "no example 999"),
        (("traverse", "--out", "a.png", "--steps", "1"), "at least 2"),
        (("traverse",), "say which file"),
        (("interpolate", "--out", "a.npy"), "must end in .png"),
        (("interpolate", "--out", "a.png", "-n", "0"), "from 1 to 90"),
    ],
)
def test_looking_wrongly(
    argv: tuple[str, ...], message: str, trained: Path, command: Command
) -> None:
    code, _, err = command(argv[0], trained, *argv[1:])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(Path().glob("a.*"))
