"""A trained linear VAE on real pictures: it reaches the optimum of probabilistic PCA, which is
known in closed form.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA

import lowerbound as lb
from lowerbound.data.dataset import Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from linear_vae import SPLITS, TOLERANCE, marginal, optimum

KNOWN = {10: (182.16, 186.02), 50: (507.91, 517.60)}
"""Mean log-likelihood of the optimum on the training and the test pictures, computed by others in
closed form.
"""


def trained(k: int, **settings: object) -> tuple[lb.VAE, Dataset]:
    data = lb.data.load("mnist", splits="train_test")
    x_shape, z_shape = data.event_shape, (k,)
    linear = lb.networks.MLP
    model = lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(
            x_shape, z_shape, network=lambda i, o: linear(i, o, hidden=())
        ),
        lb.likelihoods.Normal(
            z_shape, x_shape, scale="shared", network=lambda i, o: linear(i, o, hidden=())
        ),
    )
    lb.fit(
        model,
        lb.objectives.ELBO(kl="closed_form"),
        data,
        schedule="cosine",
        progress=False,
        **settings,
    )
    return model, data


@pytest.mark.parametrize(
    ("k", "settings"),
    [
        (10, {"epochs": 10, "batch_size": 200, "learning_rate": 0.02}),
        pytest.param(
            50, {"epochs": 25, "batch_size": 100, "learning_rate": 0.01}, marks=pytest.mark.slow
        ),
    ],
)
def test_training_reaches_the_closed_form(
    k: int, settings: dict[str, float], real_data: Path
) -> None:
    torch.manual_seed(0)
    model, data = trained(k, **settings)
    learned = marginal(model)
    for split, known in zip(SPLITS, KNOWN[k], strict=True):
        x = data.examples(split)
        exact = learned.log_prob(x.double().flatten(1))
        assert abs(exact.mean() - known) < TOLERANCE[k]
        bound = lb.evaluation.log_marginal(model, x[:2000], samples=10, seed=0)
        slack = bound - exact[:2000]
        assert slack.mean() < 4 * slack.std() / 2000**0.5
        assert abs(slack.mean()) < TOLERANCE[k]  # at the optimum the bound is tight


def test_the_closed_form_is_that_of_scikit_learn(digits: Dataset) -> None:
    x = digits.examples("train").double().flatten(1)
    x = x + 0.01 * torch.randn_like(
        x
    )  # pixels that are always 0 would make the covariance singular
    for k in (2, 10):
        # scikit-learn divides the covariance by n - 1, and the likelihood is greatest with n
        theirs = PCA(k, svd_solver="full").fit(x.numpy()).score_samples(x.numpy())
        ours = optimum(x, k).log_prob(x)
        assert abs(ours.mean() - theirs.mean()) < 1e-3
        assert torch.allclose(ours, torch.from_numpy(theirs), atol=0.1)
        assert ours.mean() >= theirs.mean()


def test_the_marginal_is_read_off_the_decoder() -> None:
    """log p(x) from the weights is what importance sampling finds."""
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((5,), (2,)),
        lb.likelihoods.Normal(
            (2,), (5,), scale=0.7, network=lambda i, o: lb.networks.MLP(i, o, hidden=())
        ),
    )
    x = torch.randn(50, 5)
    slack = lb.evaluation.log_marginal(model, x, samples=5000, seed=0) - marginal(model).log_prob(
        x.double()
    )
    assert abs(slack.mean()) < 4 * slack.std() / 50**0.5 + 0.01
