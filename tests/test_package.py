"""The wheel and the source distribution hold what is needed to run outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution, built from a copy so that the checkout stays
    clean.
    """
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(["cp", "-r", str(ROOT / "src"), str(copy / "src")], check=True)
    subprocess.run(
        [sys.executable, "-m", "build", "-q", "--no-isolation", "--outdir", str(out), str(copy)],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


def test_both_hold_every_module_the_recipes_and_the_licence(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        source = {name.split("/", 1)[-1] for name in sdist.getnames()}
    for path in (ROOT / "src" / "lowerbound").rglob("*"):
        if path.suffix in (".py", ".yaml", ".typed"):
            assert path.relative_to(ROOT / "src").as_posix() in names
            assert path.relative_to(ROOT).as_posix() in source
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "LICENSE" in source


def test_the_wheel_runs_outside_the_checkout(built: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    for argv in (
        ["recipes"],
        ["train", "--epochs", "1", "--quiet", "--out", "run", "--samples", "2"],
        ["evaluate", "run"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", "lowerbound", *argv],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    where = [sys.executable, "-c", "import lowerbound; print(lowerbound.__file__)"]
    done = subprocess.run(
        where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert str(tmp_path) in done.stdout
