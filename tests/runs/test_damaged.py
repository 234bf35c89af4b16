"""A run's files say what they were when they were written, and a damaged one is named."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data.dataset import Dataset
from lowerbound.runs.digests import KEY, signed
from lowerbound.runs.opened import own_data
from lowerbound.runs.run import Run
from lowerbound.runs.tensors import read_tensor_file, write_tensors
from tests.conftest import make_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on a table, evaluated, as the commands leave it."""
    folder = tmp_path_factory.mktemp("damaged")
    rows = np.random.default_rng(0).normal(size=(60, 2)).round(3)
    np.savetxt(folder / "table.csv", rows, "%.3f", ",", header="a,b", comments="")
    argv = ["train", str(folder / "table.csv"), "--epochs", "3", "--latent", "1", "--quiet"]
    argv += ["--posterior.network.activation", "Tanh", "--no-report", "--samples", "5"]
    assert main([*argv, "--out", str(folder / "run")]) == 0
    return Run(folder / "run")


@pytest.fixture
def run(whole: Run, tmp_path: Path) -> Run:
    """A copy of it, to be damaged."""
    return Run(shutil.copytree(whole.path, tmp_path / "run"))


def change_config(run: Run, section: str, key: str, value: object) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    place = functools.reduce(dict.__getitem__, section.split("."), config)
    place[key] = value
    run.config_file.write_text(yaml.safe_dump(config, sort_keys=False))


def flip(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def digit_in(file: Path, after: str) -> int:
    """The place of the last digit of the first number after a word."""
    text = file.read_text()
    place = text.index(after) + len(after)
    while not (text[place].isdigit() and not text[place + 1].isdigit()):
        place += 1
    return place


def test_one_flipped_bit_in_the_weights_is_seen(run: Run) -> None:
    flip(run.model_file, run.model_file.stat().st_size - 2)
    load_file(run.model_file)  # it still is a whole file of tensors
    with pytest.raises(
        ValueError, match=r"model.safetensors is damaged: .*SHA-256 differs.*train --resume --out"
    ):
        lb.load(run.path)
    with pytest.raises(ValueError, match=r"model.safetensors is damaged"):
        run.begin_with(lb.load(run.path))


def test_damaged_weights_are_written_anew_as_the_message_says(run: Run) -> None:
    before = run.model_file.read_bytes()
    flip(run.model_file, len(before) - 2)
    assert main(["train", "--resume", "--out", str(run.path), "--quiet", "--no-report"]) == 0
    assert run.model_file.read_bytes() == before


def test_one_flipped_bit_in_a_checkpoint_is_seen(run: Run) -> None:
    state = json.loads(run.state_file.read_text())
    tensors = run.checkpoint_folder / state["tensors"]
    for file, place in (
        (tensors, tensors.stat().st_size - 2),
        (run.state_file, digit_in(run.state_file, '"step"')),
        (run.state_file, digit_in(run.state_file, '"loss"')),
    ):
        before = file.read_bytes()
        flip(file, place)
        with pytest.raises(ValueError, match=rf"{file.name} is damaged: .*SHA-256 differs"):
            run.checkpoint()
        file.write_bytes(before)
    assert run.checkpoint() is not None


def test_the_tensors_of_another_state_are_not_taken_for_those_that_are_named(run: Run) -> None:
    """Both files are whole, and do not belong together."""
    state = json.loads(run.state_file.read_text())
    path = run.checkpoint_folder / state["tensors"]
    write_tensors(path, {name: 2 * value for name, value in load_file(path).items()})
    with pytest.raises(ValueError, match=r"is not the file that state.json names"):
        run.checkpoint()


def test_one_flipped_bit_in_the_metrics_is_seen(run: Run) -> None:
    flip(run.metrics_file, digit_in(run.metrics_file, '"loss"'))
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged: line 1: .*SHA-256") as error:
        run.metrics()
    assert f"lowerbound train --resume --out {run.path}" in str(error.value)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_line_of_the_metrics_is_seen(run: Run, lost: int) -> None:
    """The digest of a line covers those before it, and the checkpoint knows how many there are."""
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    del lines[lost]
    run.metrics_file.write_text("".join(lines))
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged: (line|it lacks epochs)"):
        run.metrics()


def test_one_flipped_bit_in_an_evaluation_is_seen(run: Run) -> None:
    flip(run.evaluation_file, digit_in(run.evaluation_file, '"nll"'))
    with pytest.raises(
        ValueError, match=r"evaluation.json is damaged: .*SHA-256.*lowerbound evaluate"
    ):
        run.evaluation()


def test_a_file_without_a_digest_is_not_what_the_run_wrote(run: Run) -> None:
    tensors = read_tensor_file(run.model_file).tensors
    save_file(tensors, run.model_file)
    with pytest.raises(ValueError, match=r"model.safetensors has no SHA-256 of its content"):
        lb.load(run.path)
    content = json.loads(run.evaluation_file.read_text())
    del content[KEY]
    run.evaluation_file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"evaluation.json is damaged: it has no content_sha256"):
        run.evaluation()


def test_a_run_from_before_there_were_digests_is_read(run: Run) -> None:
    expected = lb.load(run.path).state_dict(), run.metrics(), run.evaluation(), run.checkpoint()
    config = yaml.safe_load(run.config_file.read_text())
    del config["data"]["split_sha256"]
    run.config_file.write_text(yaml.safe_dump({**config, "format": 1}))
    save_file(read_tensor_file(run.model_file).tensors, run.model_file)
    state = json.loads(run.state_file.read_text())
    path = run.checkpoint_folder / state["tensors"]
    save_file(read_tensor_file(path).tensors, path)
    for file in (run.state_file, run.evaluation_file):
        content = json.loads(file.read_text())
        file.write_text(json.dumps({k: v for k, v in content.items() if k[-7:] != "_sha256"}))
    records = map(json.loads, run.metrics_file.read_text().splitlines())
    run.metrics_file.write_text(
        "".join(json.dumps({k: v for k, v in r.items() if k != KEY}) + "\n" for r in records)
    )
    weights, metrics, evaluation, checkpoint = expected
    assert all(torch.equal(v, weights[k]) for k, v in lb.load(run.path).state_dict().items())
    assert (run.metrics(), run.evaluation()) == (metrics, evaluation)
    again, before = run.checkpoint(), checkpoint
    assert again is not None
    assert before is not None
    assert all(torch.equal(value, before[0][name]) for name, value in again[0].items())
    assert len(own_data(run)["test"]) == 6


def test_identical_trainings_write_identical_weights(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    """The digest and what else stands in the header come in one order."""
    for name in ("one", "other", "third"):
        torch.manual_seed(0)
        model = make_model(binary_digits)
        lb.fit(
            model, lb.objectives.ELBO(), binary_digits, epochs=1, out=tmp_path / name,
            progress=False,
        )  # fmt: skip
    files = {(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "other")}
    assert len(files) == 1


def test_a_setting_that_changes_the_numbers_and_no_shape_is_compared(run: Run) -> None:
    change_config(run, "posterior.network", "activation", "ReLU")
    with pytest.raises(
        ValueError,
        match=r"posterior.network.activation 'ReLU', and the weights were trained with 'Tanh'",
    ):
        lb.load(run.path)


def test_what_people_edit_is_not_compared(run: Run) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    run.config_file.write_text("# mine\n" + yaml.safe_dump({**config, "epochs": 500}))
    lb.load(run.path)


@pytest.fixture
def with_another_split(run: Run) -> Run:
    change_config(run, "data", "seed", 1)
    return run


def test_training_examples_do_not_come_into_the_test_split(
    with_another_split: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """By editing data.seed in config.yaml, wherever the run's own data are read again."""
    path = str(with_another_split.path)
    config = str(with_another_split.config_file)
    for argv in (
        ["evaluate", path],
        ["report", path],
        ["reconstruct", path, "--out", "r.npy"],
        ["train", "--resume", "--out", path, "--quiet"],
        ["train", "--config", config, "--out", f"{path}-again", "--quiet"],
    ):
        assert main(argv) == 2, argv
        err = capsys.readouterr().err
        assert "is not split as when this configuration was written" in err
        assert "data.seed" in err
        assert err.count("\n") == 1


def test_another_split_that_is_asked_for_is_trained_on(run: Run, tmp_path: Path) -> None:
    argv = ["train", "--config", str(run.config_file), "--data.seed", "1", "--epochs", "1"]
    out = tmp_path / "again"
    assert main([*argv, "--out", str(out), "--quiet", "--no-report", "--samples", "1"]) == 0
    assert len(own_data(Run(out))["test"]) == 6


@pytest.mark.parametrize("option", [{"levels": 9}, {"dequantize": True}, {"binarize": "threshold"}])
def test_other_options_that_make_other_test_examples_are_seen(
    tmp_path: Path, option: dict[str, object]
) -> None:
    digits = lb.data.load("digits")
    model = make_model(digits, 2, "Normal")
    lb.fit(model, lb.objectives.ELBO(), digits, epochs=1, out=tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    for key, value in option.items():
        change_config(run, "data", key, value)
    with pytest.raises(ValueError, match="not split as when|which are not 9 levels"):
        own_data(run)


def test_the_digest_of_the_split_is_not_to_be_deleted(run: Run) -> None:
    config = yaml.safe_load(run.config_file.read_text())
    del config["data"]["split_sha256"]
    run.config_file.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"config.yaml lacks data.split_sha256"):
        own_data(run)


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("", "latent", 10**8),
        ("", "latent", 10**30),
        ("posterior.network", "hidden", [10**9]),
        ("likelihood.network", "hidden", [1000] * 50),
        ("data", "event_shape", [10**6, 10**6]),
    ],
)
def test_sizes_that_the_weights_cannot_fill_are_refused_before_anything_is_allocated(
    run: Run,
    section: str,
    key: str,
    value: object,
    is_signed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what stands beside the weights, and in a run from before by how many they are."""
    config = yaml.safe_load(run.config_file.read_text())
    place = functools.reduce(dict.__getitem__, section.split(".") if section else [], config)
    place[key] = value
    if not is_signed:
        config["format"] = 1
        save_file(read_tensor_file(run.model_file).tensors, run.model_file)
    run.config_file.write_text(yaml.safe_dump(config))
    allocated, empty = [0], torch.empty

    def recording(*args: object, **kwargs: object) -> torch.Tensor:
        tensor = empty(*args, **kwargs)
        allocated.append(tensor.numel())
        return tensor

    monkeypatch.setattr(torch, "empty", recording)
    words = rf"says .*{key} .*trained with" if is_signed else "describes another model than"
    with pytest.raises(ValueError, match=f"config.yaml.*{words}") as error:
        lb.load(run.path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert sum(allocated) < 10**7


def test_a_checkpoint_that_is_a_link_is_not_followed(
    run: Run, tmp_path: Path, binary_digits: Dataset
) -> None:
    elsewhere = tmp_path / "elsewhere"
    run.checkpoint_folder.rename(elsewhere)
    (elsewhere / ".half.tmp").write_text("not ours")
    run.checkpoint_folder.symlink_to(elsewhere, target_is_directory=True)
    before = {path.name: path.read_bytes() for path in elsewhere.iterdir()}
    for refused in (
        run.checkpoint,
        lambda: run.write_checkpoint({}, {"step": 7}),
        lambda: run.locked().__enter__(),
        lambda: lb.fit(
            make_model(binary_digits), lb.objectives.ELBO(), binary_digits, epochs=1,
            out=run.path, overwrite=True, progress=False,
        ),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="checkpoint is a link to another folder"):
            refused()
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == before


def test_a_second_state_after_the_same_step_leaves_the_first_until_it_is_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two writes must leave a pair that belongs together."""
    before = run.checkpoint()
    assert before is not None
    tensors, state = before

    def killed(path: Path, content: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lowerbound.runs.run.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        run.write_checkpoint({name: 2 * value for name, value in tensors.items()}, state)
    again = run.checkpoint()
    assert again is not None
    assert again[1] == state
    assert all(torch.equal(value, tensors[name]) for name, value in again[0].items())


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("metrics.jsonl", {"seconds": "fast"}),
        ("metrics.jsonl", {"train": None}),
        ("metrics.jsonl", {"train": {"loss": [1]}}),
        ("metrics.jsonl", {"epoch": 7}),
        ("evaluation.json", {"nll": {"value": "86"}}),
        ("evaluation.json", {"nll": 86.0}),
        ("evaluation.json", {"curve": [{"samples": 0, "nll": None}]}),
        ("evaluation.json", {"warnings": "none"}),
        ("evaluation.json", {"levels": [{"name": 1}]}),
        ("evaluation.json", {"estimator": None}),
    ],
)
def test_well_formed_files_that_are_something_else_are_refused_by_report(
    run: Run, capsys: pytest.CaptureFixture[str], file: str, changes: dict[str, object]
) -> None:
    """With digests that fit: some program wrote them."""
    path = run.path / file
    first, *_ = path.read_text().splitlines() if file[-1] == "l" else [path.read_text()]
    content = {key: value for key, value in json.loads(first).items() if key != KEY}
    path.write_text(json.dumps(signed({**content, **changes})) + "\n")
    run.state_file.unlink()
    assert main(["report", str(run.path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"lowerbound: error: {path} is damaged: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", ["Infinity", "NaN", "-Infinity", "1e999", "[" * 100_000])
def test_numbers_that_are_none_in_a_checkpoint_are_refused(run: Run, number: str) -> None:
    text = run.state_file.read_text()
    run.state_file.write_text(text.replace('"seconds": ', f'"seconds": {number}, "was": '))
    with pytest.raises(ValueError, match=r"state.json is damaged: ") as error:
        run.checkpoint()
    assert len(str(error.value)) < 500
