"""What is not imported before it is needed: help and imports do not wait for drawing, tables,
downloads, training or a compiler.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

DRAWING = {"matplotlib", "PIL", "jinja2"}
HEAVY = {
    "sklearn",
    "scipy",
    "pandas",
    "pyarrow",
    "pooch",
    "requests",
    "lightning_fabric",
    "zuko",
    "torchvision",
}
COMPILER = {"torch._dynamo", "torch._inductor", "sympy"}  # as long as all of torch takes
SETTINGS = {"yaml", "rich"}
TRAINING = """
import lowerbound as lb
digits = lb.data.load("digits")
model = lb.VAE(
    prior=lb.priors.StandardNormal((2,)),
    posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (2,)),
    likelihood=lb.likelihoods.Normal((2,), digits.event_shape),
)
lb.fit(model, lb.objectives.ELBO(), digits, epochs=1, progress=False)
lb.evaluate(model, digits, samples=2)
"""
PARTS = "lb.VAE, lb.models, lb.priors, lb.posteriors, lb.likelihoods, lb.objectives, lb.networks"


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import lowerbound", {"torch", "numpy", *SETTINGS, *DRAWING, *HEAVY}),
        (
            "from lowerbound.cli import main; main(['--help'])",
            {"torch", "numpy", *SETTINGS, *DRAWING, *HEAVY},
        ),
        (
            "from lowerbound.cli import main; main(['data'])",
            {"torch", "numpy", "rich", *DRAWING, *HEAVY},
        ),
        (
            "from lowerbound.cli import main; main(['recipes'])",
            {"torch", "numpy", "rich", *DRAWING, *HEAVY},
        ),
        ("from lowerbound.cli import main; main(['train', '--help'])", {"rich", *DRAWING, *HEAVY}),
        (
            "from lowerbound.cli import main; main(['evaluate', '--help'])",
            {"rich", *DRAWING, *HEAVY},
        ),
        (f"import lowerbound as lb; {PARTS}", {*SETTINGS, *DRAWING, *HEAVY}),
        (
            "import lowerbound as lb; lb.fit, lb.evaluate, lb.data, lb.load",
            {"rich", *DRAWING, *HEAVY},
        ),
        (TRAINING, {*COMPILER, *DRAWING, *HEAVY}),
    ],
)
def test_is_not_imported(program: str, absent: set[str]) -> None:
    look = f"{program}\nimport sys\nprint('loaded', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "lowerbound" in loaded
    assert not loaded & absent


FUNCTIONS = {
    "fit": "training.fit",
    "evaluate": "evaluation.evaluate",
    "compare": "evaluation.compare",
    "gaps": "evaluation.gaps",
    "scores": "evaluation.scores",
    "load": "runs.run",
}
"""Public functions, and the modules in which they are defined: most bear the function's name."""


def test_functions_are_functions_whatever_is_imported_first() -> None:
    program = f"""
import importlib, sys
functions = {FUNCTIONS!r}
modules = [*functions.values(), *{{module.partition('.')[0] for module in functions.values()}}]
for first in modules:
    for name in [name for name in sys.modules if name.partition('.')[0] == 'lowerbound']:
        del sys.modules[name]
    importlib.import_module('lowerbound.' + first)
    lb = importlib.import_module('lowerbound')
    for name, module in functions.items():
        for package in (lb, importlib.import_module('lowerbound.' + module.partition('.')[0])):
            assert callable(getattr(package, name)), (first, name, package)
    assert callable(lb.evaluation.annealed), first
"""
    subprocess.run([sys.executable, "-c", program], check=True)
