"""The command line, called as a person types it, and a run to call it on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lowerbound.cli import main

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Runs a command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(a) for a in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the bundled digits."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert (
        main(
            [
                "train",
                "--epochs",
                "2",
                "--latent",
                "4",
                "--out",
                str(out),
                "--quiet",
                "--samples",
                "5",
            ]
        )
        == 0
    )
    return out


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
