"""Every two parts work together: trained, evaluated, sampled, saved, reloaded and resumed; what
cannot be is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from tests.composition import (
    ROOT,
    Combination,
    compose,
    covering,
    data_for,
    everything,
    page,
    readme,
    refusals,
    refused,
)

WRITE = "python -m tests.composition"


@pytest.fixture(autouse=True)
def _no_power_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk is most of the time of these lives, and nothing here asks what a power
    cut would leave.
    """
    monkeypatch.setattr(os, "fsync", lambda _: None)


def lives(combination: Combination, folder: Path) -> None:
    """A combination from its first step to its second epoch, by way of the disk."""
    data = data_for(combination[2])
    how = {"epochs": 2, "batch_size": 24, "progress": False, "out": folder / "run"}
    if reason := refused(combination):
        with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
            lb.fit(*compose(combination, data), data, **how)
        assert not (folder / "run").exists()
        return
    model, objective = compose(combination, data)
    history = lb.fit(model, objective, data, **how)
    assert all(value is not None for value in history.series("loss"))
    result = lb.evaluate(model, data, samples=3)
    assert result.n == 6
    assert model.sample(4, seed=0, context=data.context("test")[:4]).shape == (4, *data.event_shape)
    again = lb.load(folder / "run")
    assert lb.evaluate(again, data, samples=3) == result
    killed = {**how, "checkpoint_seconds": 0, "out": folder / "killed"}
    fresh, objective = compose(combination, data)
    passes = iter(range(4))

    def interrupt(*_: object) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    fresh.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        lb.fit(fresh, objective, data, **killed)
    fresh, objective = compose(combination, data)
    lb.fit(fresh, objective, data, **killed, resume=True)
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in fresh.state_dict().items()
    )


@pytest.mark.parametrize("combination", covering(), ids="-".join)
def test_every_two_parts_meet(combination: Combination, tmp_path: Path) -> None:
    lives(combination, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("combination", everything(), ids="-".join)
def test_every_combination(combination: Combination, tmp_path: Path) -> None:
    lives(combination, tmp_path)


@pytest.mark.parametrize(("file", "content"), [("docs/parts.md", page), ("README.md", readme)])
def test_the_pages_list_the_parts_that_there_are(file: str, content: Callable[[], str]) -> None:
    if (ROOT / file).read_text("utf-8") != content():
        pytest.fail(f"{file} does not list the parts as they are now; write it anew by: {WRITE}")


def test_the_table_of_refusals_holds_those_pairs_and_no_others() -> None:
    listed = {
        frozenset({(r.role, a), (r.offer.role, b)})
        for r in refusals()
        for a in r.needy
        for b in r.without
    }
    roles = ("prior", "posterior", "likelihood", "objective")
    for combination in everything():
        pairs = permutations(zip(roles, combination, strict=True), 2)
        assert any(frozenset(pair) in listed for pair in pairs) == (
            refused(combination) is not None
        )
