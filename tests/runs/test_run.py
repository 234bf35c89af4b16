"""The run folder: complete, safe to load, and refused in one line where it is not whole."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.runs.digests import KEY, signed
from lowerbound.runs.run import FORMAT, Run
from lowerbound.runs.tensors import read_tensor_file, read_tensors, write_tensors
from tests.conftest import make_model


@pytest.fixture
def run(binary_digits: Dataset, tmp_path: Path) -> Run:
    model = make_model(binary_digits)
    lb.fit(
        model,
        lb.objectives.ELBO(),
        binary_digits,
        epochs=2,
        out=tmp_path / "läufe" / "eins",
        progress=False,
    )
    return Run(tmp_path / "läufe" / "eins")


def test_metrics_are_one_object_an_epoch(run: Run) -> None:
    records = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert {"epoch", "step", "train", "valid", "seconds", "examples_per_second"} <= set(record)
        assert {"loss", "elbo", "rate", "distortion"} <= set(record["train"])
        assert {"loss", "elbo", "rate", "distortion"} <= set(record["valid"])


def test_the_configuration_is_complete(run: Run) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    assert config["format"] == FORMAT
    assert config["data"]["name"] == "digits"
    assert len(config["data"]["sha256"]) == 64
    assert config["posterior"]["network"] == {
        "part": "MLP",
        "hidden": [512],
        "activation": "ReLU",
        "batch_norm": False,
    }
    assert config["objective"]["part"] == "ELBO"
    assert config["objective"]["beta"] == 1.0
    assert config["learning_rate"] == 1e-3


def test_a_folder_from_before_there_was_a_choice_of_models_is_loaded_and_resumed(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = make_model(binary_digits)
    how = {"batch_size": 500, "progress": False, "out": tmp_path / "old"}
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=1, **how)
    run = Run(tmp_path / "old")
    config = yaml.safe_load(run.config_file.read_text())
    assert config.pop("model") == {"part": "VAE"}
    run.config_file.write_text(yaml.safe_dump(config))
    again = lb.load(run.path)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
    )
    lb.fit(
        make_model(binary_digits), lb.objectives.ELBO(), binary_digits, epochs=1, **how, resume=True
    )


def test_a_folder_that_lacks_what_later_versions_write_down_is_resumed(tmp_path: Path) -> None:
    """Settings of data, parts and training that are absent were at their defaults; at another value
    they are refused.
    """
    file = tmp_path / "table.csv"
    file.write_text("a,b,c\n" + "".join(f"{i % 7 / 3},{i % 5 / 2},{i % 3}\n" for i in range(60)))

    def train(resume: bool, **options: object) -> None:
        table = lb.data.load(file, labels="c", **options)
        model = lb.VAE(
            lb.priors.StandardNormal((2,)),
            lb.posteriors.DiagonalNormal((2,), (2,)),
            lb.likelihoods.Normal((2,), (2,)),
        )
        lb.fit(
            model,
            lb.objectives.ELBO(),
            table,
            epochs=1,
            progress=False,
            out=tmp_path / "old",
            resume=resume,
        )

    train(resume=False)
    run = Run(tmp_path / "old")
    config = yaml.safe_load(run.config_file.read_text())
    for key in ("missing", "categorical", "classes", "strip", "labelled", "columns"):
        del config["data"][key]
    del config["posterior"]["condition"], config["objective"]["free_bits"], config["clip"]
    run.config_file.write_text(yaml.safe_dump(config))
    train(resume=True)
    with pytest.raises(
        ValueError, match=r"cannot be resumed .*data.missing: 'refuse' then, 'marginalise' now"
    ):
        train(resume=True, missing="marginalise")
    config["seed"] = 1
    run.config_file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"cannot be resumed .*seed: 1 then, 0 now"):
        train(resume=True)


def test_weights_in_their_file_are_those_of_the_model(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = make_model(binary_digits)
    lb.fit(
        model, lb.objectives.ELBO(), binary_digits, epochs=2, out=tmp_path / "run", progress=False
    )
    again = lb.load(tmp_path / "run")
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"tensors": "state-24.safetensors"}'])
def test_a_damaged_checkpoint_is_refused(run: Run, content: str, binary_digits: Dataset) -> None:
    (run.checkpoint_folder / "state.json").write_text(content)
    with pytest.raises(ValueError, match=r"state.json is damaged|is damaged: ") as error:
        lb.fit(
            make_model(binary_digits),
            lb.objectives.ELBO(),
            binary_digits,
            epochs=2,
            out=run.path,
            resume=True,
            progress=False,
        )
    assert "\n" not in str(error.value)


def test_lost_metrics_are_written_again_from_the_checkpoint(
    run: Run, binary_digits: Dataset
) -> None:
    before = run.metrics_file.read_text()
    run.metrics_file.unlink()
    model = make_model(binary_digits)
    lb.fit(
        model,
        lb.objectives.ELBO(),
        binary_digits,
        epochs=2,
        out=run.path,
        resume=True,
        progress=False,
    )
    assert run.metrics_file.read_text() == before


def test_numbers_of_numpy_are_numbers(binary_digits: Dataset, tmp_path: Path) -> None:
    settings = {
        "epochs": 1,
        "learning_rate": np.float64(1e-3),
        "out": tmp_path / "run",
        "progress": False,
    }
    lb.fit(
        make_model(binary_digits), lb.objectives.ELBO(beta=np.float64(2)), binary_digits, **settings
    )
    assert Run(tmp_path / "run").config()["learning_rate"] == 1e-3
    assert Run(tmp_path / "run").config()["objective"]["beta"] == 2


def change(run: Run, **changes: object) -> None:
    run.config_file.write_text(
        yaml.safe_dump({**yaml.safe_load(run.config_file.read_text()), **changes})
    )


def test_a_newer_version_is_refused(run: Run) -> None:
    change(run, format=FORMAT + 1)
    with pytest.raises(ValueError, match="newer lowerbound"):
        lb.load(run.path)


def test_a_configuration_that_names_code_is_refused(run: Run) -> None:
    change(run, prior={"part": "os.system"})
    with pytest.raises(ValueError, match="'os', which is not trusted"):
        lb.load(run.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": None},
        {"data": {"event_shape": "big"}},
        {"data": {"event_shape": [0]}},
        {"format": "x"},
    ],
)
def test_a_configuration_of_something_else_is_refused(run: Run, changes: dict[str, object]) -> None:
    change(run, **changes)
    with pytest.raises(ValueError, match="event_shape|format") as error:
        lb.load(run.path)
    assert "\n" not in str(error.value)


def test_missing_and_half_written_folders_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run folder"):
        lb.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="not a run folder: it has no config.yaml"):
        lb.load(tmp_path)
    run.model_file.unlink()
    with pytest.raises(
        ValueError, match=r"no model.safetensors: its training has not got that far"
    ):
        lb.load(run.path)
    run.config_file.write_text("")
    with pytest.raises(ValueError, match="must hold a mapping"):
        lb.load(run.path)


def test_wrong_tensors_are_refused(run: Run) -> None:
    state, about = lb.load(run.path).state_dict(), read_tensor_file(run.model_file).about
    name = "posterior.net.layers.0.weight"
    for wrong, message in (
        ({k: v for k, v in state.items() if k != name}, f"lacks {name}"),
        ({**state, "extra": torch.zeros(1)}, "has extra"),
        ({**state, name: torch.zeros(2, 2)}, r"is \(2, 2\), not \(512, 64\)"),
        ({**state, name: state[name].int()}, r"is of type torch.int32, not torch.float32"),
    ):
        write_tensors(run.model_file, wrong, about)
        with pytest.raises(ValueError, match=message):
            lb.load(run.path)
    for content in (
        b"",
        b"garbage that is long enough to hold a header",
        run.model_file.read_bytes()[:-100],
    ):
        run.model_file.write_bytes(content)
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            lb.load(run.path)


class Evil:
    """Unpickling it would run code."""

    def __reduce__(self) -> object:
        return (Path("pwned").touch, ())


@pytest.mark.parametrize("written_by", ["pickle", "torch"])
def test_a_pickle_in_place_of_tensors_is_refused_and_does_not_run(
    run: Run,
    written_by: str,
    binary_digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    name = json.loads((run.checkpoint_folder / "state.json").read_text())["tensors"]
    for file in (run.model_file, run.checkpoint_folder / name):
        with file.open("wb") as stream:
            (pickle.dump if written_by == "pickle" else torch.save)(
                {"posterior.net.layers.0.weight": Evil()}, stream
            )
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        lb.load(run.path)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        resume(run, binary_digits)
    assert not Path("pwned").exists()


def test_another_latent_size_in_the_configuration_is_refused(run: Run) -> None:
    change(run, latent=[7])
    with pytest.raises(ValueError, match=r"latent \[7\], and the weights were trained with \[3\]"):
        lb.load(run.path)


def test_leftovers_of_a_killed_writer_are_removed(run: Run) -> None:
    leftover = run.path / ".model.safetensors.abc.tmp"
    leftover.write_bytes(b"half")
    with run.locked():
        assert not leftover.exists()


RANDOM = {
    "a short random state": torch.zeros(7, dtype=torch.uint8),
    "an empty random state": torch.zeros(0, dtype=torch.uint8),
    "a random state of nothing": torch.full_like(torch.get_rng_state(), 255),
    "a random state of numbers": torch.zeros(5056),
}


def forge(run: Run, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> None:
    """Change a checkpoint and give it the digests that fit: a file as some program wrote it, and
    not damage.
    """
    state = json.loads(run.state_file.read_text())
    del state[KEY]
    if tensors is not None:
        state["tensors_sha256"] = write_tensors(run.checkpoint_folder / state["tensors"], tensors)
    run.state_file.write_text(json.dumps(signed({**state, **changes})))


def resume(run: Run, data: Dataset) -> lb.History:
    settings = {"epochs": 2, "out": run.path, "resume": True, "progress": False}
    return lb.fit(make_model(data), lb.objectives.ELBO(), data, **settings)


@pytest.mark.parametrize(
    "change",
    [
        "drop optimizer",
        "drop best",
        "drop random",
        "wrong shape",
        "wrong type",
        "one more",
        "no group",
        *RANDOM,
    ],
)
def test_tensors_that_do_not_belong_are_refused_before_anything_is_touched(
    run: Run, binary_digits: Dataset, change: str
) -> None:
    """The fused update trusts the shapes of its moments, so a wrong one would write beyond them."""
    state = json.loads(run.state_file.read_text())
    tensors = read_tensors(run.checkpoint_folder / state["tensors"])
    if change.startswith("drop"):
        tensors = {k: v for k, v in tensors.items() if not k.startswith(change.split()[1])}
    elif change == "wrong shape":
        tensors["optimizer.0.exp_avg"] = torch.ones(3)
    elif change == "wrong type":
        tensors["optimizer.0.exp_avg"] = tensors["optimizer.0.exp_avg"].long()
    elif change == "one more":
        tensors["optimizer.99.exp_avg"] = torch.ones(3)
    elif change == "no group":
        tensors["unheard_of.x"] = torch.ones(3)
    else:
        tensors["random.cpu"] = RANDOM[change]
    forge(run, tensors=tensors)
    with pytest.raises(ValueError, match="the checkpoint in .* is damaged"):
        resume(run, binary_digits)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "x"},
        {"epoch": 9},
        {"done": 5},
        {"best": 3},
        {"records": []},
        {"precision": None},
        {"step": -1},
        {"seconds": -1},
        {"made_by": 3},
        {"counters": []},
    ],
)
def test_counts_that_do_not_fit_are_refused(
    run: Run, binary_digits: Dataset, change: dict[str, object]
) -> None:
    forge(run, **change)
    with pytest.raises(ValueError, match="the checkpoint in .* is damaged"):
        resume(run, binary_digits)


def test_resuming_what_is_not_there_makes_no_folder(binary_digits: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no run folder"):
        resume(Run(tmp_path / "none"), binary_digits)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match="name is empty"):
        Run("")
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="is a file, and a run needs a folder"),
        Run(tmp_path / "file").locked(),
    ):
        pass
