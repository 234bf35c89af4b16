"""Several processes do what one does: the same weights, numbers and files, and one line where one
of them dies.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.parallel.launch import launch
from lowerbound.parallel.processes import ALONE, Processes, check_devices
from lowerbound.runs.tensors import read_tensors
from tests import together
from tests.composition import covering, refused

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

two_cores = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a process wants a core")
within = pytest.mark.timeout(
    240
)  # a process that waits for another for good would wait for half an hour

PLAIN = "StandardNormal DiagonalNormal Bernoulli"
TOGETHER = (
    f"{PLAIN} IWAE", f"{PLAIN} BetaTC", f"{PLAIN} MMD", f"{PLAIN} FactorVAE", f"{PLAIN} DReG",
    "Categorical Categorical Bernoulli ELBO", "ConditionalNormal DiagonalNormal Bernoulli MMD",
    "StandardNormal FullNormal OptimalNormal ReweightedWakeSleep", *together.OTHERS, "dropout / 2",
    "replicated weights / 2",
)  # fmt: skip


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started programs find these tests, and what they test."""
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(lb.__file__).parents[1])])
    )


def assert_the_same(one: Path, other: Path, name: str, against: str | None = None) -> None:
    first, second = (
        json.loads((f / f"{n}.json").read_text())
        for f, n in ((one, against or name), (other, name))
    )
    approximate = (
        (lambda value: pytest.approx(value, rel=1e-5, abs=1e-6)) if name != "clipped" else _roughly
    )
    for before, after in zip(first["epochs"], second["epochs"], strict=True):
        assert after["train"].keys() == before["train"].keys()
        assert _numbers(after) == approximate(_numbers(before)), name
        assert after["skipped_steps"] == before["skipped_steps"] == 0
    tensors = [
        read_tensors(f / f"{n}.safetensors") for f, n in ((one, against or name), (other, name))
    ]
    tolerance = {"atol": 1e-7, "rtol": 0} if name != "clipped" else {"atol": 2e-3, "rtol": 0}
    for key, value in tensors[0].items():
        torch.testing.assert_close(
            tensors[1][key], value, **tolerance, msg=lambda text, key=key: f"{name}: {key}: {text}"
        )
    if name != "clipped":
        assert _numbers(second["evaluation"]) == pytest.approx(
            _numbers(first["evaluation"]), rel=1e-5, abs=1e-6
        )


def _roughly(value: Any) -> Any:
    """Sums in bfloat16 round differently in other shapes of matrices."""
    return pytest.approx(value, rel=1e-2)


def _numbers(content: Any) -> list[float]:
    if isinstance(content, dict):
        return [number for key in sorted(content) for number in _numbers(content[key])]
    if isinstance(content, list):
        return [number for item in content for number in _numbers(item)]
    return [float(content)] if isinstance(content, (int, float)) else []


@two_cores
@within
@pytest.mark.usefixtures("importable")
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Every statistic of a batch, every way to draw, odd shares, a last batch of one example, and
    evaluation.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert launch("tests.together", [str(two), *TOGETHER, *together.REFUSED], 2) == 0
    together.train(one, [name for name in TOGETHER if "/" not in name])
    for name in TOGETHER:
        combination = name.partition(" / ")[0]
        assert_the_same(one, two, name.replace("/", "in"), combination)
    # and what they would do otherwise is refused, in all of them
    for name, words in (
        ("careless", "compares the examples of a batch"),
        ("lottery", "different amounts of random"),
        ("noisy weights", "NoisyWeights draws random numbers of the shape (6,)"),
    ):
        for rank in range(2):
            assert words in (two / f"{name} {rank}").read_text()


@two_cores
@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_every_two_parts_do_the_same_in_two_processes(tmp_path: Path) -> None:
    """In as few combinations as let every two meet."""
    names = [" ".join(combination) for combination in covering() if not refused(combination)]
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    assert launch("tests.together", [str(two), *names], 2) == 0
    together.train(one, names)
    for name in names:
        assert_the_same(one, two, name)


@two_cores
@within
@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_processes_may_compile_their_shares(tmp_path: Path) -> None:
    assert launch("tests.together", [str(tmp_path), "compiled"], 2) == 0
    plain, compiled = (json.loads((tmp_path / name).read_text()) for name in ("plain", "compiled"))
    assert plain == pytest.approx(compiled, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["dropout", "one left", "drawn anew", "Categorical Categorical Bernoulli ELBO"]
)
def test_a_batch_in_pieces_gives_the_same_step(tmp_path: Path, name: str) -> None:
    together.train(tmp_path, [name, f"{name} / 3"])
    assert_the_same(tmp_path, tmp_path, f"{name} in 3", name)


@pytest.mark.parametrize(
    ("name", "part"),
    [(f"{PLAIN} BetaTC", "BetaTC"), ("batch_norm", "BatchNorm1d"), ("codes", "VectorQuantised"),
     ("StandardNormal DiagonalNormal OptimalNormal ELBO", "OptimalNormal")],
)  # fmt: skip
def test_what_compares_examples_is_not_done_in_pieces(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"^accumulate is 2, and {part} takes statistics of the batch.*use accumulate 1",
    ):
        together.train(tmp_path, [f"{name} / 2"])


@two_cores
@within
@pytest.mark.usefixtures("importable")
def test_a_process_that_dies_stops_the_others_and_another_number_of_processes_goes_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert launch("tests.together", [str(tmp_path), "die"], 2) == 1
    assert time.monotonic() - began < 60
    err = capfd.readouterr().err
    assert (
        "lowerbound: error: process 1 of 2 was killed by SIGKILL, and the others were stopped"
        in err
    )
    ends = []
    for out, resume in ((tmp_path / "run", True), (None, False)):
        model, objective, data = together.case("one left")
        how: dict[str, Any] = {
            "epochs": 4,
            "batch_size": 13,
            "progress": False,
            "checkpoint_seconds": 0,
        }
        ends.append(lb.fit(model, objective, data, **how, out=out, resume=resume))
    assert [epoch["step"] for epoch in ends[0].epochs] == [4, 8, 12, 16]
    assert ends[0].series("loss") == pytest.approx(ends[1].series("loss"), rel=1e-5)


@two_cores
@within
def test_the_command_stops_all_processes_at_ctrl_c_with_one_line_and_measures_by_several(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "lowerbound",
        "train",
        "digits",
        "--device",
        "cpu",
        "--no-report",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(lb.__file__).parents[1])}
    process = subprocess.Popen(
        [*command, "--devices", "2", "--epochs", "1000"],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"epoch 1/1000" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = [line for line in err.decode().splitlines() if not line.startswith("epoch")]
    assert len(lines) == 1
    assert re.match(
        r"lowerbound: stopped in epoch \d+ after \d+ of 12 steps; saved in .*; go on with: ",
        lines[0],
    )
    measured = ["evaluate", str(out), "--samples", "7", "--device", "cpu", "--json"]
    shared = subprocess.run(
        [sys.executable, "-m", "lowerbound", *measured, "--devices", "2"],
        env=environment,
        capture_output=True,
        check=True,
    )
    assert main(measured) == 0
    alone = json.loads(capsys.readouterr().out)
    assert _numbers(json.loads(shared.stdout)) == pytest.approx(_numbers(alone), rel=1e-5, abs=1e-6)
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    assert state["made_by"]["processes"] == 2


@pytest.mark.parametrize(
    ("ask", "world", "message"),
    [
        (lambda: 0, ALONE, "devices is 0: it must be a whole number, at least 1"),
        (
            lambda: 10_000,
            ALONE,
            r"devices is 10000, and this machine has \d+ processor cores.*use at most \d+",
        ),
        (
            lambda: 2,
            ALONE,
            "a Python program is one process: start it as several by torchrun --nproc-per-node 2",
        ),
        (
            lambda: 1,
            Processes(0, 4, 0, 2),
            "devices is 1, and 2 processes were started on this machine; leave devices out",
        ),
    ],
)
def test_a_number_of_devices_that_cannot_be_is_refused(
    ask: Callable[[], int], world: Processes, message: str
) -> None:
    if ask() == 2 and (os.cpu_count() or 1) < 2:
        pytest.skip("there are too few cores to get that far")
    with pytest.raises(ValueError, match=message):
        check_devices(ask(), CPU, world)


def test_a_gpu_of_its_own_for_each() -> None:
    with pytest.raises(ValueError, match="device 'cuda:1' is one; use device 'cuda'"):
        check_devices(2, torch.device("cuda:1"), ALONE)
    with pytest.raises(ValueError, match="there is one mps device; use devices 1, or device 'cpu'"):
        check_devices(2, torch.device("mps"), ALONE)
    with pytest.raises(ValueError, match=rf"this machine has {torch.cuda.device_count()} GPUs"):
        check_devices(99, torch.device("cuda"), ALONE)


def test_a_batch_that_is_smaller_than_its_pieces_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="batch_size is 13, and is divided by 14 .*take at least 14"
    ):
        together.train(tmp_path, ["one left / 14"], batch_size=13)
    with pytest.raises(ValueError, match="accumulate is 0: it must be at least 1"):
        together.train(tmp_path, ["one left / 0"])


def test_a_torch_without_processes_is_refused_before_any_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    with pytest.raises(ValueError, match="use devices 1"):
        launch("lowerbound", ["train", "digits"], 2)
