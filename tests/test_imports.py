"""What is not imported before it is needed: help and imports do not wait for drawing, tables,
downloads or training.
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
SETTINGS = {"yaml", "rich"}
PARTS = "lb.VAE, lb.models, lb.priors, lb.posteriors, lb.likelihoods, lb.objectives, lb.networks"


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import lowerbound", {"torch", "numpy", *SETTINGS, *DRAWING, *HEAVY}),
        (
            "from lowerbound.cli import main; main(['--help'])",
            {"torch", "numpy", *SETTINGS, *DRAWING, *HEAVY},
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
    ],
)
def test_is_not_imported(program: str, absent: set[str]) -> None:
    look = (
        f"{program}\nimport sys\n"
        f"print('loaded', *{{name.partition('.')[0] for name in sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded & {"lowerbound"}
    assert not loaded & absent
