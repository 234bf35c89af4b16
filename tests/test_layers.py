"""The walls: a module imports only from lower layers, siblings of a folder do not import each
other.
"""

from __future__ import annotations

import ast
from pathlib import Path

import lowerbound

ROOT = Path(lowerbound.__file__).parent

ORDER = (
    "utils",
    "shapes", "supports", "compatibility", "codebook",
    "distributions", "parallel", "networks",
    "conditions", "units", "roles", "codes",
    "data",
    "draw", "checks", "model", "objective",
    "priors", "posteriors", "likelihoods", "models", "objectives",
    "evaluation", "config", "runs", "training",
    "plots", "explore", "report",
    "cli", "__main__",
)  # fmt: skip
"""Every package and root module, in the reading order: each imports only from those before it."""

PARTS = ("priors", "posteriors", "likelihoods", "models", "objectives", "networks", "cli")
"""Packages whose files do not import each other, but for what they share, whose name begins with an
underscore.
"""

ANYWHERE = "__version__"  # the one name that the package itself holds


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> list[tuple[str, ...]]:
    """What a module imports of lowerbound, functions' bodies included, as paths below the
    package.
    """
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [
                tuple(a.name.split(".")[1:])
                for a in node.names
                if a.name.split(".")[0] == "lowerbound"
            ]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            head, *rest = (node.module or "").split(".")
            if head == "lowerbound":
                found += [
                    place(rest, alias.name)
                    for alias in node.names
                    if rest or alias.name != ANYWHERE
                ]
    return found


def place(package: list[str], name: str) -> tuple[str, ...]:
    """Where a name that is imported from a package lies: a module of it, or the package itself."""
    module = ROOT.joinpath(*package, name)
    is_module = module.is_dir() or module.with_suffix(".py").is_file()
    return (*package, name) if is_module or not package else tuple(package)


def violations(path: Path, imports: list[tuple[str, ...]]) -> list[str]:
    own = path.relative_to(ROOT).with_suffix("").parts
    folder = own[0]
    wrong = []
    for target in imports:
        if target[0] not in ORDER:
            wrong.append(f"{'/'.join(own)} imports {target}, which has no place in the order")
        elif target[0] == folder and len(own) > 1:
            if len(target) == 1 and own[-1] != "__init__":
                wrong.append(
                    f"{'/'.join(own)} imports its own package, and not the module that it needs"
                )
            elif folder in PARTS and own[-1] != "__init__" and not target[1].startswith("_"):
                wrong.append(f"{'/'.join(own)} imports its sibling {'.'.join(target)}")
        elif ORDER.index(target[0]) >= ORDER.index(folder):
            wrong.append(f"{'/'.join(own)} imports {target[0]}, which comes later")
    return wrong


def test_every_module_has_a_place() -> None:
    top = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert top == set(ORDER)


def test_the_root_fits_one_screen() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 18


def test_imports_go_down() -> None:
    assert not [v for path in modules() for v in violations(path, imported(path))]


def test_the_test_sees_an_upward_and_a_sideways_import() -> None:
    assert violations(ROOT / "shapes.py", [("model",)])
    assert violations(ROOT / "priors" / "standard_normal.py", [("priors", "vamp")])
    assert violations(ROOT / "model.py", [("unheard_of",)])
    assert violations(ROOT / "data" / "mnist.py", [("data",)])
    assert not violations(ROOT / "data" / "mnist.py", [("data", "fetch")])


def test_no_module_is_over_500_lines() -> None:
    assert not {
        path.name: n for path in modules() if (n := len(path.read_text().splitlines())) > 500
    }


def test_no_code_looks_before_it_leaps() -> None:
    """No hasattr: a part is of its role, and a role says what it has."""
    assert not [path for path in modules() if "hasattr(" in path.read_text()]


def test_loading_never_unpickles() -> None:
    forbidden = (
        "import pickle",
        "torch.load(",
        "allow_pickle=True",
        "yaml.load(",
        "eval(model",
        "exec(",
    )
    assert not [
        (path, word) for path in modules() for word in forbidden if word in path.read_text()
    ]
