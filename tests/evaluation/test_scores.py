"""From a model and data with factors to scores, in Python and on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main

RNG = np.random.default_rng(0)
FACTORS = np.stack(np.meshgrid(np.arange(4), np.arange(5)), -1).reshape(-1, 2).repeat(15, 0)


def sprites() -> np.ndarray:
    """Pictures of 6 x 6 pixels with one bright row and one bright column."""
    x = np.zeros((len(FACTORS), 6, 6), np.uint8)
    for i, (row, column) in enumerate(FACTORS):
        x[i, row] = 1
        x[i, :, column] = 1
    return x


def model_of(data: lb.data.Dataset) -> lb.VAE:
    torch.manual_seed(0)
    shape = data.event_shape
    return lb.VAE(
        lb.priors.StandardNormal((3,)),
        lb.posteriors.DiagonalNormal(shape, (3,)),
        lb.likelihoods.Bernoulli((3,), shape),
    )


def test_factors_go_with_their_examples() -> None:
    """Through the split and into the checksum."""
    x = FACTORS.astype(np.float32)
    data = lb.data.from_arrays(x, factors=FACTORS)
    for split in data.splits:
        assert torch.equal(data.factors(split), data.examples(split).long())
    assert data.sha256 != lb.data.from_arrays(x).sha256
    floats = lb.data.from_arrays(x, factors=torch.linspace(0, 1, len(x)))
    assert floats.factors("train").shape == (len(floats["train"]), 1)


def test_labels_are_a_single_factor_and_without_them_there_is_none() -> None:
    digits = lb.data.load("digits")
    assert digits.factors("test").shape == (180, 1)
    with pytest.raises(ValueError, match="has no factors: give them"):
        lb.data.from_arrays(np.zeros((20, 2))).factors("train")
    with pytest.raises(ValueError, match=r"20 examples but factors of shape \(10, 2\)"):
        lb.data.from_arrays(np.zeros((20, 2)), factors=np.zeros((10, 2)))


def test_a_run_on_a_file_laid_out_as_dsprites_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    order = RNG.permutation(len(FACTORS))
    constant = np.ones((len(FACTORS), 1), np.int64)
    np.savez("sprites.npz", imgs=sprites()[order], latents_classes=np.c_[constant, FACTORS][order])
    assert main(["train", "sprites.npz", "--latent", "3", "--epochs", "2", "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["scores", "run", "--split", "train", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["factors"] == 2
    assert found["mig"]["n"] == 240
    data = lb.data.load("sprites.npz")
    in_python = lb.scores(lb.load("run"), data, "train")
    assert in_python.as_json() == found
    assert main(["scores", "run", "sprites.npz"]) == 0
    out = capsys.readouterr().out
    assert "informativeness" in out
    assert main(["scores", "run", "--bins", "1"]) == 2
    assert "bins is 1" in capsys.readouterr().err


def test_codes_that_are_the_factors_score_one() -> None:
    """The whole way from a card to the scores, with an encoder that gives back what the pictures
    were made from.
    """
    x = FACTORS.astype(np.float32)
    data = lb.data.from_arrays(x, factors=FACTORS)
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((2,), (2,), network=lb.networks.MLP),
        lb.likelihoods.Normal((2,), (2,)),
    )
    model.posterior.net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (2, 2)))
    with torch.no_grad():
        model.posterior.net[0].weight.copy_(
            torch.tensor([[0.0, -2.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
        )
    found = lb.scores(model, data, "train")
    assert found.mig.value == pytest.approx(
        1, abs=0.02
    )  # the split leaves the two a little correlated
    assert found.disentanglement is not None
    assert found.disentanglement.value == pytest.approx(1)
    assert found.informativeness.value == pytest.approx(1)
    assert found.factor_vae is not None
    assert found.factor_vae.value == pytest.approx(1)
    alone = lb.scores(model, lb.data.from_arrays(x, factors=FACTORS[:, :1]), "train")
    assert (alone.disentanglement, alone.factor_vae, alone.factors) == (
        None,
        None,
        1,
    )  # they could not be below 1
