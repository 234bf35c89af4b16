"""Recipes against what was published: long trainings, run with -m slow."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.slow
def test_notebook_mlp_gives_the_notebooks_losses_within_one_percent(real_data: Path) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "notebook_mlp.py"))
    for printed, mean in script["run"]():
        assert abs(mean / printed - 1) < 0.01
