"""Going on from weights that have been trained: what is kept, what is recorded, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.runs.run import Run
from tests.conftest import make_model

ELBO = lb.objectives.ELBO
QUIET: dict[str, Any] = {"epochs": 1, "progress": False}


def test_a_trained_model_goes_on_from_its_weights_and_says_whose_they_were(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model, first, second = make_model(binary_digits), tmp_path / "first", tmp_path / "second"
    lb.fit(model, ELBO(), binary_digits, **QUIET, out=first)
    assert "init" not in Run(first).config()
    again = lb.load(first)
    objective = lb.objectives.IWAE(samples=5)
    history = lb.fit(again, objective, binary_digits, **QUIET, out=second, learning_rate=1e-12)
    digest = hashlib.sha256((first / "model.safetensors").read_bytes()).hexdigest()
    assert Run(second).config()["init"] == {"run": str(first.resolve()), "sha256": digest}
    assert len(history.epochs) == 1  # epochs are those of this run
    for before, after in zip(model.parameters(), lb.load(second).parameters(), strict=True):
        assert torch.allclose(before, after, atol=1e-9)


def test_what_was_taken_from_the_first_data_is_kept() -> None:
    """Units, pseudo-inputs and codebooks belong to the weights: other data must not set them
    anew.
    """
    rng = torch.Generator().manual_seed(0)
    first = lb.data.from_arrays(100 + 10 * torch.randn(200, 3, generator=rng))
    other = lb.data.from_arrays(-5 + torch.randn(200, 3, generator=rng))
    model = lb.VAE(
        lb.priors.VampPrior((2,), (3,), components=4),
        lb.posteriors.DiagonalNormal((3,), (2,)),
        lb.likelihoods.Normal((2,), (3,)),
    )
    lb.fit(model, ELBO(), first, **QUIET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lb.fit(model, ELBO(), other, **QUIET, learning_rate=1e-12)
    for name, value in model.state_dict().items():
        assert torch.allclose(value, before[name], atol=1e-6), name


def test_a_run_that_went_on_is_resumed_by_itself(binary_digits: Dataset, tmp_path: Path) -> None:
    model, first, second = make_model(binary_digits), tmp_path / "first", tmp_path / "second"
    lb.fit(model, ELBO(), binary_digits, **QUIET, out=first)
    lb.fit(model, ELBO(), binary_digits, **QUIET, out=second)
    fresh = make_model(binary_digits)  # its weights are those of the checkpoint
    lb.fit(fresh, ELBO(), binary_digits, **QUIET, out=second, resume=True)
    assert torch.equal(
        nn.utils.parameters_to_vector(fresh.parameters()),
        nn.utils.parameters_to_vector(lb.load(second).parameters()),
    )
    assert Run(second).config()["init"]["run"] == str(first.resolve())


def test_weights_that_were_never_in_a_folder_are_recorded_as_such(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = make_model(binary_digits)
    lb.fit(model, ELBO(), binary_digits, **QUIET)
    lb.fit(model, ELBO(), binary_digits, **QUIET, out=tmp_path / "run")
    assert Run(tmp_path / "run").config()["init"] == {"run": None}


def test_weights_of_another_shape_are_refused_by_the_first_part_that_differs(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    model = make_model(binary_digits, latent=3)
    lb.fit(model, ELBO(), binary_digits, **QUIET, out=tmp_path / "run")
    other = make_model(binary_digits, latent=4)
    with pytest.raises(ValueError, match=r"run.*does not fit the model: posterior\.net\..* is"):
        Run(tmp_path / "run").begin_with(other)
