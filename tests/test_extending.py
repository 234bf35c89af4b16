"""The page on extending: its files are written into a package outside the library, tested, and
trained with by name; and its parts are put into a copy of the library, as CONTRIBUTING.md says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "laplace": "priors",
    "spherical": "posteriors",
    "absolute": "likelihoods",
    "target": "objectives",
}
"""Each file of the page that holds a part, and where it lies in the library."""


def files_of_the_page() -> dict[str, str]:
    """The content of each file, by the name in its first line."""
    text = (ROOT / "docs" / "extending.md").read_text("utf-8")
    return dict(re.findall(r"```python\n# (\S+\.py)\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files, in a folder that has nothing else."""
    folder = tmp_path_factory.mktemp("outside")
    for name, content in files_of_the_page().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, "utf-8")
    (folder / "mine" / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with the page's parts in it: of each one file, one export, one
    test.
    """
    copy, page = tmp_path_factory.mktemp("inside"), files_of_the_page()
    for folder in ("src", "tests", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "conftest.py", "README.md"):
        shutil.copy(ROOT / file, copy)
    for stem, folder in FOLDERS.items():
        package = copy / "src" / "lowerbound" / folder
        (package / f"{stem}.py").write_text(page[f"mine/{stem}.py"], "utf-8")
        test = page[f"test_{stem}.py"].replace("from mine.", f"from lowerbound.{folder}.")
        (copy / "tests" / folder / f"test_{stem}.py").write_text(test, "utf-8")
        part = re.findall(r"^class (\w+)", page[f"mine/{stem}.py"], re.MULTILINE)[-1]
        export(package / "__init__.py", f"lowerbound.{folder}.{stem}", part)
    return copy


def export(init: Path, module: str, part: str) -> None:
    """Add a part to the exports of a package: its import and its name, in the form that
    `ruff format` and `ruff check --fix` give them.
    """
    text = init.read_text("utf-8")
    text = text.replace("\n\nfrom ", f"\n\nfrom {module} import {part}\nfrom ", 1)
    init.write_text(text.replace("__all__ = [", f'__all__ = ["{part}", ', 1), "utf-8")
    for command in (("format",), ("check", "--fix")):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--quiet", str(init)]
        subprocess.run(ruff, cwd=init.parent, check=True)


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A Python program in the folder outside, with the library beside it."""
    return start(folder, [folder, ROOT, os.environ.get("PYTHONPATH", "")], *argv)


def run_inside(copy: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A Python program in the copy, of which it imports library and tests."""
    return start(copy, [copy / "src", copy], *argv)


def start(folder: Path, path: list[Path | str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        check=False,
    )


TESTS = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")


def test_the_tests_of_the_page_pass(outside: Path) -> None:
    done = run(outside, *TESTS, *map(str, outside.glob("test_*.py")))
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d{2,} passed", done.stdout.splitlines()[-1])


WRONG = """
from mine.laplace import Laplace
from tests.contracts import PriorContract


class OfOneEntry(Laplace):
    def forward(self, context, posterior=None):
        return super().forward(context, posterior).base_dist


class TestOfOneEntry(PriorContract):
    make = OfOneEntry
"""


def test_a_contract_that_fails_shows_both_sides(outside: Path) -> None:
    """Also to somebody whose tests import the contracts and lie elsewhere."""
    file = outside / "wrong" / "test_of_one_entry.py"
    file.parent.mkdir()
    file.write_text(WRONG, "utf-8")
    done = run(outside, *TESTS, str(file), "-k", "batch_is_empty")
    assert done.returncode == 1, done.stdout[-3000:]
    assert "assert torch.Size([]) == (3,)" in done.stdout


def added(copy: Path) -> list[str]:
    """What a contributor of these parts has written, below the copy."""
    package = Path("src", "lowerbound")
    parts = [package / folder / f"{stem}.py" for stem, folder in FOLDERS.items()]
    exports = [package / folder / "__init__.py" for folder in FOLDERS.values()]
    tests = [Path("tests", folder, f"test_{stem}.py") for stem, folder in FOLDERS.items()]
    assert all((copy / path).is_file() for path in (*parts, *exports, *tests))
    return [str(path) for path in (*parts, *exports, *tests)]


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_linter_takes_the_parts_as_they_stand(inside: Path, command: str) -> None:
    done = run_inside(inside, "-m", "ruff", *command.split(), "--no-cache", *added(inside))
    assert done.returncode == 0, done.stdout


def test_mypy_takes_the_parts_as_they_stand(inside: Path) -> None:
    """By strict rules. What `make types` has learned of torch is used, as it takes half a minute to
    learn.
    """
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", inside / ".mypy_cache", dirs_exist_ok=True)
    sources = [path for path in added(inside) if path.startswith("src")]
    done = run_inside(inside, "-m", "mypy", "--cache-dir", ".mypy_cache", *sources)
    assert done.returncode == 0, done.stdout


def test_a_part_is_one_file_one_export_and_one_test(inside: Path) -> None:
    """The rest is written by a command, or finds the part: pages, layers, contract, KL,
    composition.
    """
    done = run_inside(inside, "-m", "tests.composition")
    assert done.returncode == 0, done.stderr
    for page in ("docs/parts.md", "README.md"):
        assert "`Laplace`" in (inside / page).read_text("utf-8")
        assert "`RateTarget`" in (inside / page).read_text("utf-8")
    files = ["test_layers.py", "test_composition.py", "distributions/test_kl.py"]
    tests = [*(f"tests/{file}" for file in files), *(f for f in added(inside) if "test_" in f)]
    chosen = [*(f"test_{stem}" for stem in FOLDERS), "imports_go_down", "pages_list"]
    pair = "Laplace and SphericalNormal and (two_parts_meet or to_every_prior)"
    done = run_inside(inside, *TESTS, "-vv", *tests, "-k", " or ".join([*chosen, f"({pair})"]))
    assert done.returncode == 0, done.stdout[-3000:]
    for test in (
        r"test_every_two_parts_meet\[Laplace-SphericalNormal-\S+\] PASSED",
        r"test_every_posterior_to_every_prior_agrees_with_monte_carlo\[Laplace-SphericalNormal\]",
        *(rf"tests/{folder}/test_{stem}.py::\S+ PASSED" for stem, folder in FOLDERS.items()),
    ):
        assert re.search(test, done.stdout), test


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
