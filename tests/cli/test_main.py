"""The whole command: help, pipes, and one line with exit code 2 for everything that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lowerbound.cli import COMMANDS
from tests.cli.conftest import Command, process

RNG = np.random.default_rng(0)


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


def test_a_closed_pipe_is_no_traceback(trained: Path) -> None:
    script = f"{sys.executable} -m lowerbound train --help | head -1"
    done = subprocess.run(script, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


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
