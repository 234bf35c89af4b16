"""Trainings that are killed, stopped, or meet a full disk or each other: nothing is lost."""

from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

from lowerbound.runs.run import Run
from tests.cli.conftest import finish, process


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
    """Those of a run, without what depends on how fast the machine was."""
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "examples_per_second")}
        for record in Run(folder).metrics()
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
