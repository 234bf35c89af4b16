"""The page on extending: its files are written into a package outside the library, tested, and
trained with by name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, in a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("outside")
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    for name, content in re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    (folder / "mine" / "__init__.py").touch()
    return folder


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tests_of_the_page_pass(outside: Path) -> None:
    done = run(outside, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(outside))
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1])


def test_the_parts_work_together(outside: Path) -> None:
    done = run(outside, "together.py")
    assert done.returncode == 0, done.stderr


def test_they_are_parts_on_the_command_line(outside: Path) -> None:
    parts = {
        "prior": "mine.laplace.Laplace",
        "posterior": "mine.spherical.SphericalNormal",
        "likelihood": "mine.absolute.Absolute",
        "objective": "mine.target.RateTarget",
    }
    options = [word for role, part in parts.items() for word in (f"--{role}", part)]
    train = [
        "train",
        "digits",
        "--epochs",
        "1",
        "--samples",
        "2",
        "--out",
        "run",
        "--no-report",
        "--quiet",
        *options,
    ]
    refused = run(outside, "-m", "lowerbound", *train)
    assert refused.returncode == 2
    assert "--trust mine" in refused.stderr
    done = run(
        outside,
        "-m",
        "lowerbound",
        *train,
        "--prior.scale",
        "0.7",
        "--objective.target",
        "3",
        "--trust",
        "mine",
    )
    assert done.returncode == 0, done.stderr
    assert "scale: 0.7" in (outside / "run" / "config.yaml").read_text()
    done = run(outside, "-m", "lowerbound", "evaluate", "run", "--samples", "5", "--trust", "mine")
    assert done.returncode == 0, done.stderr
    assert "nll" in done.stdout
