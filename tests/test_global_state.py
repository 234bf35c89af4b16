"""No public call moves a global random generator: of torch, of numpy, or of Python.

Exceptions draw as any module of torch does, from its global generator, and say so: making a model
(``lb.VAE(...)``), calling it (``model(x)``, and ``evidence`` and ``refined``, which do), and what
is asked to with ``seed=None``, as ``model.sample(n)`` is where no seed is named.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowerbound as lb
from lowerbound import explore
from lowerbound.data.dataset import Dataset
from lowerbound.report import write_report
from lowerbound.roles import Context
from lowerbound.runs.run import Run
from tests.conftest import make_model


@dataclass
class Given:
    """What the calls are given."""

    data: Dataset
    model: lb.VAE
    flow: lb.VAE
    run: Path
    folder: Path

    @property
    def x(self) -> Tensor:
        return self.data.examples("test")[:3]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp("given")
    data = lb.data.load("digits", binarize="threshold")
    torch.manual_seed(0)
    model = make_model(data)
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, out=folder / "run", progress=False)
    flow = lb.VAE(
        prior=lb.priors.StandardNormal((3,)),
        posterior=lb.posteriors.Planar((1, 8, 8), (3,)),
        likelihood=lb.likelihoods.Bernoulli((3,), (1, 8, 8)),
    )
    return Given(data, model, flow, folder / "run", folder)


def fitted(given: Given, **settings: Any) -> lb.History:
    return lb.fit(
        make_model_quietly(given.data), lb.objectives.ELBO(), given.data, epochs=1,
        progress=False, **settings,
    )  # fmt: skip


def make_model_quietly(data: Dataset) -> lb.VAE:
    """Weights are drawn, which is no part of what is tested."""
    state = torch.get_rng_state()
    model = make_model(data)
    torch.set_rng_state(state)
    return model


def imputed(given: Given) -> Tensor:
    mask = torch.arange(64).reshape(1, 8, 8).expand(3, 1, 8, 8) > 5
    return lb.evaluation.impute(given.model, given.x, Context(mask=mask), samples=3)


def evaluated(given: Given, seed: int = 0) -> lb.Evaluation:
    return lb.evaluate(given.model, given.data, samples=3, seed=seed)


TOP: dict[str, Callable[[Given], object]] = {
    "fit": fitted,
    "load": lambda given: lb.load(given.run),
    "evaluate": evaluated,
    "compare": lambda given: lb.compare({"a": evaluated(given), "b": evaluated(given, 1)}),
    "gaps": lambda given: lb.gaps(given.model, given.x, steps=3, chains=2, temperatures=3),
    "scores": lambda given: lb.scores(given.model, given.data, examples=60),
}
EVALUATION: dict[str, Callable[[Given], object]] = {
    "annealed": lambda given: lb.evaluation.annealed(
        given.model, given.x, chains=2, temperatures=3
    ),
    "sandwich": lambda given: lb.evaluation.sandwich(given.model, 3, chains=2, temperatures=3),
    "log_marginal": lambda given: lb.evaluation.log_marginal(given.model, given.x, samples=3),
    "impute": imputed,
}
OTHERS: dict[str, Callable[[Given], object]] = {
    "fit in pieces": lambda given: fitted(given, accumulate=2),
    "data.load": lambda given: lb.data.load("digits", binarize="dynamic", flip=True),
    "data.from_arrays": lambda given: lb.data.from_arrays(np.eye(30), dequantize=False),
    "data.examples": lambda given: lb.data.load("digits", binarize="dynamic").examples("test"),
    "sample": lambda given: given.model.sample(3, seed=0),
    "sample of a flow": lambda given: given.flow.sample(3, seed=0, mean_of_x=True),
    "encode": lambda given: given.model.encode(given.x),
    "encode by a flow": lambda given: given.flow.encode(given.x),
    "reconstruct by a flow": lambda given: given.flow.reconstruct(given.x),
    "explore.rates": lambda given: explore.rates(given.flow, given.x),
    "explore.traverse": lambda given: explore.traverse(given.model, torch.zeros(3), [0, 1]),
    "explore.interpolate": lambda given: explore.interpolate(given.flow, given.x, given.x),
    "report": lambda given: write_report(
        Run(given.run), given.model, given.data, evaluated(given).as_json()
    ),
}
CALLS = {**TOP, **EVALUATION, **OTHERS}

WITHOUT_A_MODEL = {
    "active_units", "bound", "collapsed_levels", "dci", "effective_samples", "factor_score",
    "information", "is_collapsed", "mig", "pareto_k", "remaining_bias", "sap", "variance",
    "warn_of_collapse",
}  # fmt: skip
"""Statistics of what is measured already; ``scores`` and ``evaluate`` call them."""
AS_THE_MODEL_DRAWS = {"evidence", "refined"}


def states() -> list[Any]:
    kind, keys, *rest = np.random.get_state()  # the one that must not move
    return [torch.get_rng_state().tolist(), kind, keys.tolist(), rest, random.getstate()]


@pytest.mark.parametrize("name", CALLS)
def test_the_global_generators_stay_where_they_are(name: str, given: Given) -> None:
    torch.manual_seed(11)
    before = states()
    CALLS[name](given)
    assert states() == before


def test_the_table_holds_every_public_function() -> None:
    def functions(package: Any) -> set[str]:
        return {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}

    assert functions(lb) == set(TOP)
    held = {*TOP, *EVALUATION, *WITHOUT_A_MODEL, *AS_THE_MODEL_DRAWS}
    assert functions(lb.evaluation) <= held
