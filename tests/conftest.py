from __future__ import annotations

import inspect
import os
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.objective import Objective


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return lb.data.load("digits")


@pytest.fixture(scope="session")
def binary_digits() -> Dataset:
    return lb.data.load("digits", binarize="threshold")


@pytest.fixture
def real_data() -> Path:
    """The folder of canonical files; the tests that need it skip where there is none."""
    folder = os.environ.get("LOWERBOUND_DATA")
    if not folder or not Path(folder, "mnist").is_dir():
        pytest.skip("LOWERBOUND_DATA does not name a folder with the canonical files of MNIST")
    return Path(folder)


@pytest.fixture
def small_model(binary_digits: Dataset) -> lb.VAE:
    return make_model(binary_digits)


def make_model(
    data: Dataset, latent: int = 3, likelihood: str = "Bernoulli", **settings: object
) -> lb.VAE:
    x_shape, z_shape = data.event_shape, (latent,)
    return lb.VAE(
        prior=lb.priors.StandardNormal(z_shape),
        posterior=lb.posteriors.DiagonalNormal(x_shape, z_shape),
        likelihood=getattr(lb.likelihoods, likelihood)(z_shape, x_shape, **settings),
    )


def make_objective(name: str, latent: int = 3) -> Objective:
    """An objective by its name; one with a critic is given the latent's shape."""
    part = getattr(lb.objectives, name)
    asks = "z_shape" in inspect.signature(part).parameters
    made: Objective = part(**({"z_shape": (latent,)} if asks else {}))
    return made
