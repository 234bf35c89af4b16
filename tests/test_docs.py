"""The documentation is true: commands run as they stand, links lead somewhere, names are those of
the code.
"""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from lowerbound.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one empty folder that holds what the text says it holds; make is what runs this
    test.
    """
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.save("my.npy", np.random.default_rng(0).normal(size=(60, 5)))
    names = np.random.default_rng(0).choice(["adelie", "gentoo", ""], 60)
    cells = [f"{i},{'' if i % 5 else 1.5 * i},{i % 2},{name}" for i, name in enumerate(names)]
    Path("my.csv").write_text("\n".join(["rings,weight,is_male,species", *cells]))
    lines = [
        line for block in blocks(ROOT / "README.md", "bash") for line in block.splitlines() if line
    ]
    commands = [shlex.split(line, comments=True) for line in lines]
    ours = [words[1:] for words in commands if words and words[0] == "lowerbound"]
    assert len(ours) >= 8
    assert {words[0] for words in commands if words} <= {"lowerbound", "make"}
    for words in ours:
        assert main(words) == 0, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_notation_is_that_of_the_code() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    rows = [
        line
        for line in (ROOT / "docs" / "notation.md").read_text().splitlines()
        if line.startswith("|")
    ]
    names = [re.split(r"(?<!\\)\|", row)[2] for row in rows]
    code = {
        word
        for cell in names
        for quoted in re.findall(r"`([^`]+)`", cell)
        for word in re.findall(r"[a-zA-Z_]\w+", quoted)
    }
    assert len(code) > 20
    assert not [name for name in code if not re.search(rf"\b{name}\b", source)]


def test_the_tree_in_the_readme_is_that_of_the_package() -> None:
    named = set(re.findall(r"(?<=\s)(\w+(?:\.py|/))(?=\s)", blocks(ROOT / "README.md", "text")[0]))
    there = {
        p.name + "/" * p.is_dir()
        for p in (ROOT / "src" / "lowerbound").iterdir()
        if p.suffix == ".py" or p.is_dir()
    }
    assert there - {"__pycache__/", "__main__.py"} <= named | {"__init__.py"}


def test_nothing_names_a_path_of_somebodys_machine() -> None:
    for path in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        assert not re.search(r"/(home|root|Users)/", path.read_text()), path


def functions_of(file: Path) -> set[str]:
    """The functions of a file, as name or Class::name."""
    body = ast.parse(file.read_text()).body
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    methods = {
        f"{c.name}::{f.name}" for c in classes for f in c.body if isinstance(f, ast.FunctionDef)
    }
    return methods | {f.name for f in body if isinstance(f, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, name in re.findall(r"\b(tests/[\w/]+\.py)::([\w:]+)", page.read_text()):
        assert (ROOT / file).is_file(), file
        assert name in functions_of(ROOT / file), f"{file}::{name}"
        assert name.rpartition("::")[2].startswith("test_"), name
