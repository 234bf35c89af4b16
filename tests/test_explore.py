from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.explore import interpolate, manifold, rates, traverse


class Shown(nn.Module):
    """A decoder that shows z itself, so that what is decoded is what moved."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.scale * z


def model(n: int) -> lb.VAE:
    return lb.VAE(
        prior=lb.priors.Normal((n,)),
        posterior=lb.posteriors.DiagonalNormal(
            (n,), (n,), network=lambda i, o: lb.networks.MLP(i, o, hidden=())
        ),
        likelihood=lb.likelihoods.Normal((n,), (n,), network=Shown),
    )


def test_a_traversal_moves_one_dimension_by_three_prior_deviations() -> None:
    vae = model(4)
    with torch.no_grad():
        vae.prior.loc.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
        vae.prior.log_scale.copy_(torch.tensor([0.0, 0.5, 1.0, 1.5]))
    z = torch.tensor([9.0, 8.0, 7.0, 6.0])
    frames = traverse(vae, z, [1, 3], steps=7)
    assert frames.shape == (2, 7, 4)
    mean, scale = vae.prior_scale(torch.zeros(vae.code_shape))
    for row, d in enumerate((1, 3)):
        assert torch.allclose(
            frames[row, [0, 3, 6], d], mean[d] + scale[d] * torch.tensor([-3.0, 0.0, 3.0])
        )
        others = [i for i in range(4) if i != d]
        assert torch.equal(frames[row][:, others], z[others].expand(7, 3))


def test_an_interpolation_is_a_straight_line_between_codes() -> None:
    vae, x = model(3), torch.randn(10, 3)
    frames = interpolate(vae, x[:5], x[5:], steps=3)
    codes = vae.encode(x)
    assert torch.allclose(frames[:, 0], codes[:5])
    assert torch.allclose(frames[:, 2], codes[5:])
    assert torch.allclose(frames[:, 1], (codes[:5] + codes[5:]) / 2, atol=1e-6)


def test_the_manifold_has_equal_probability_in_every_cell() -> None:
    plane = manifold(model(2), side=10).reshape(10, 10, 2)
    cdf = torch.special.ndtr(plane)
    assert torch.allclose(cdf[0, :, 0], (torch.arange(10) + 0.5) / 10, atol=1e-5)
    assert torch.allclose(cdf[:, 0, 1], ((torch.arange(10) + 0.5) / 10).flip(0), atol=1e-5)


def test_rates_are_those_of_the_closed_form() -> None:
    vae, x = model(3), torch.randn(50, 3)
    by_dimension, variance = rates(vae, x, batch_size=7)
    assert torch.allclose(by_dimension.sum(), vae(x).rate.mean(), atol=1e-5)
    assert torch.allclose(variance, vae.encode(x).var(0), atol=1e-5)
    full = lb.VAE(vae.prior, lb.posteriors.FullNormal((3,), (3,)), vae.likelihood)
    assert rates(full, x)[0] is None


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no latent dimension 4; they are numbered 0 to 3"):
        traverse(model(4), torch.zeros(4), [4])
    with pytest.raises(ValueError, match="there are 4"):
        manifold(model(4))
    for call in (lambda: traverse(model(4), torch.zeros(4), [0], 1), lambda: manifold(model(2), 1)):
        with pytest.raises(ValueError, match="at least 2"):
            call()


DISCRETE = {
    "categories": lambda: lb.VAE(
        lb.priors.Categorical((3, 4)),
        lb.posteriors.Categorical((1, 8, 8), (3, 4)),
        lb.likelihoods.Bernoulli((3, 4), (1, 8, 8)),
    ),
    "bits": lambda: lb.VAE(
        lb.priors.Bernoulli((5,)),
        lb.posteriors.Bernoulli((1, 8, 8), (5,)),
        lb.likelihoods.Bernoulli((5,), (1, 8, 8)),
    ),
}


@pytest.mark.parametrize("kind", DISCRETE)
def test_discrete_codes_stay_codes_on_every_way(kind: str, monkeypatch) -> None:
    """A variable takes each of its values; between two examples one variable after the other
    changes sides.
    """
    model = DISCRETE[kind]()
    n, values = (3, 4) if kind == "categories" else (5, 2)
    x = torch.rand(6, 1, 8, 8)
    decode, seen = model.decode, []
    monkeypatch.setattr(model, "decode", lambda z, *rest: seen.append(z) or decode(z, *rest))
    codes = model.encode(x)
    frames = traverse(model, codes[0], [0, n - 1], steps=9)
    assert frames.shape == (2, values, 1, 8, 8)
    for d, moved in zip((0, n - 1), seen, strict=True):
        each = moved.reshape(values, n, -1)
        assert len(each[:, d].unique(dim=0)) == values
        others = [i for i in range(n) if i != d]
        assert torch.equal(
            each[:, others], codes[0].reshape(1, n, -1)[:, others].expand(values, -1, -1)
        )
    path = interpolate(model, x[:3], x[3:], steps=n + 1)
    assert path.shape == (3, n + 1, 1, 8, 8)
    assert torch.equal(seen[-1][:, 0], codes[:3])
    assert torch.equal(seen[-1][:, -1], codes[3:])
    for z in seen:
        assert bool(((z == 0) | (z == 1)).all())
        if kind == "categories":
            assert bool((z.sum(-1) == 1).all())
    by_rate, variance = rates(model, x)
    assert by_rate.shape == variance.shape == (n,)
    with pytest.raises(
        ValueError, match=f"no latent dimension {n}; they are numbered 0 to {n - 1}"
    ):
        traverse(model, codes[0], [n])
    with pytest.raises(ValueError, match="these codes are discrete; use traverse"):
        manifold(model)
