"""``lowerbound train``: what it writes, for which data and parts, and what it refuses to touch."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_diabetes

import lowerbound as lb
from lowerbound.cli.train import _spread
from lowerbound.config.recipes import recipe_names
from lowerbound.data import NAMED
from lowerbound.data.dataset import Stored
from tests.cli.conftest import Command

RNG = np.random.default_rng(0)


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


@pytest.mark.filterwarnings("default")
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
    code, _, err = command("score", "run", "more.npy", "--samples", 2, "--out", "s.npy")
    assert (code, "taken by position: a, b" in err) == (0, True)


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


def test_a_run_begins_with_the_weights_of_another_and_is_repeated_from_its_record(
    command: Command,
) -> None:
    how = ("--samples", 2, "--no-report", "--quiet")
    assert command("train", "digits", "--epochs", 1, *how, "--out", "first")[0] == 0
    more = ("--epochs", 1, "--learning-rate", 1e-12, "--logger", "csv")
    assert command("train", "digits", "--init", "first", *more, *how, "--out", "second")[0] == 0
    before, after = lb.load("first"), lb.load("second")
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    assert Path("second", "logs", "metrics.csv").is_file()
    assert yaml.safe_load(Path("second", "config.yaml").read_text())["init"]["run"] == str(
        Path("first").resolve()
    )
    command("train", "--config", "second/config.yaml", *how, "--out", "third")
    assert Path("third", "model.safetensors").read_bytes() == (
        Path("second", "model.safetensors").read_bytes()
    )
    command("train", "digits", "--epochs", 2, *how, "--overwrite", "--out", "first")
    code, _, err = command("train", "--config", "second/config.yaml", *how, "--out", "fourth")
    assert code == 2
    assert "and they have changed since" in err
    assert not Path("fourth").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--init", "nothing"), "there is no run folder nothing"),
        (("--resume", "--out", "x", "--init", "y"), "leave out --init"),
        (("--logger", "wandb"), "--logger: expected one of"),
        (("--ema", "2"), "ema is 2.0: it must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_begun_with_is_refused(
    command: Command, words: tuple[str, ...], message: str
) -> None:
    code, _, err = command("train", "digits", *words)
    assert code == 2
    assert message in err


def test_weights_of_another_shape_are_refused_by_the_part_that_differs(command: Command) -> None:
    how = ("--samples", 2, "--no-report", "--quiet")
    assert command("train", "digits", "--epochs", 1, *how, "--out", "first")[0] == 0
    code, _, err = command("train", "--init", "first", "--latent", 3, *how, "--out", "second")
    assert code == 2
    assert "does not fit the model: posterior.net" in err
    assert not Path("second").exists()


def test_the_sheet_shows_examples_from_all_of_a_split_whatever_its_order() -> None:
    """A file may be sorted by class: the first examples are then of one."""
    data = lb.data.from_arrays(np.arange(1000.0)[:, None], splits="all")
    x, context = _spread(data, "all", 32)
    assert x.shape == (32, 1)
    assert len(torch.unique(x)) == 32
    assert torch.equal(x, _spread(data, "all", 32)[0])  # always the same
    tenths = torch.bincount((x.flatten() / 100).long(), minlength=10)
    assert (tenths > 0).sum() >= 8  # with all but a chance of 1 in 1,000
    few = lb.data.from_arrays(np.arange(5.0)[:, None], splits="all")
    assert torch.equal(_spread(few, "all", 32)[0], few.examples("all"))
    labelled = lb.data.from_arrays(np.arange(100.0)[:, None], np.arange(100), splits="all")
    x, context = _spread(labelled, "all", 8)
    assert context.y.tolist() == x.flatten().tolist()


def test_a_command_that_is_suggested_can_be_pasted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run folder may be called as an option is."""
    monkeypatch.chdir(tmp_path)
    code, out, err = command(
        "train", "--out=-x", "--epochs", 1, "--samples", 2, "--no-report", "--latent", 2
    )
    assert code == 0, err
    (line,) = [line for line in (out + err).splitlines() if line.startswith("again ")]
    words = shlex.split(line.removeprefix("again"))
    assert words[:2] == ["lowerbound", "evaluate"]
    assert command(*words[1:3], "--samples", 2)[0] == 0
