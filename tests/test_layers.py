"""The walls: a module imports only from lower layers, siblings of a folder do not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import lowerbound

ROOT = Path(lowerbound.__file__).parent

LAYERS = {
    "shapes": 0, "codebook": 0, "nats": 0, "supports": 0, "messages": 0, "needs": 0, "seeding": 0, "files": 0, "memory": 0,
    "modes": 0, "devices": 0, "processes": 0, "zuko": 0, "stopping": 0,
    "settings": 1, "factors": 1, "conditions": 1, "transforms": 1, "distributions": 1, "pictures": 1, "units": 1,
    "progress": 1, "shards": 1, "fabric": 1, "launch": 1, "recipes": 1, "flows": 1, "mapped": 1,
    "roles": 2, "noise": 2, "networks": 2, "kl": 2, "plots": 2,
    "dataset": 3, "codes": 3, "draw": 3, "checks": 3,
    "priors": 4, "posteriors": 4, "likelihoods": 4, "fetch": 4, "cards": 4, "model": 4, "objective": 4, "annealing": 4,
    "data": 5, "models": 5, "objectives": 5, "evaluation": 5, "explore": 5, "samples": 5, "passes": 5,
    "parts": 6, "measured": 6, "optimizers": 6, "tightness": 6, "scoring": 6,
    "compiled": 7, "build": 7, "measure": 7, "comparison": 7,
    "run": 8,
    "state": 9, "opened": 9, "report": 9,
    "configuration": 9,
    "steps": 10,
    "train": 11,
    "cli": 12,
    "__main__": 13,
}  # fmt: skip
"""Every module or folder at the top of the package, and its layer; the order is the reading order."""

ANYWHERE = "__version__"  # the one name that the package itself holds


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> list[tuple[str, ...]]:
    """What a module imports of lowerbound, functions' bodies included, as paths below the package."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.split(".")[0] == "lowerbound"]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            head, *rest = (node.module or "").split(".")
            if head == "lowerbound":
                found += [tuple(rest)] if rest else [(alias.name,) for alias in node.names if alias.name != ANYWHERE]
    return found


def violations(path: Path, imports: list[tuple[str, ...]]) -> list[str]:
    place = path.relative_to(ROOT).with_suffix("").parts
    folder = place[0]
    wrong = []
    for target in imports:
        if target[0] not in LAYERS:
            wrong.append(f"{'/'.join(place)} imports {target}, which has no layer")
        elif target[0] == folder and len(place) > 1:
            if place[-1] != "__init__":
                wrong.append(f"{'/'.join(place)} imports its sibling {'.'.join(target)}")
        elif LAYERS[target[0]] >= LAYERS[folder]:
            wrong.append(f"{'/'.join(place)} ({LAYERS[folder]}) imports {target[0]} ({LAYERS[target[0]]})")
    return wrong


def test_every_module_has_a_layer() -> None:
    top = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert top == set(LAYERS)


def test_imports_go_down() -> None:
    assert not [v for path in modules() for v in violations(path, imported(path))]


def test_the_test_sees_an_upward_and_a_sideways_import() -> None:
    assert violations(ROOT / "shapes.py", [("model",)])
    assert violations(ROOT / "priors" / "standard_normal.py", [("priors", "vamp")])
    assert violations(ROOT / "model.py", [("unheard_of",)])


def test_no_module_is_over_500_lines() -> None:
    assert not {path.name: n for path in modules() if (n := len(path.read_text().splitlines())) > 500}


def test_no_code_looks_before_it_leaps() -> None:
    """No hasattr: a part is of its role, and a role says what it has."""
    assert not [path for path in modules() if "hasattr(" in path.read_text()]


def test_loading_never_unpickles() -> None:
    forbidden = ("import pickle", "torch.load(", "allow_pickle=True", "yaml.load(", "eval(model", "exec(")
    assert not [(path, word) for path in modules() for word in forbidden if word in path.read_text()]
