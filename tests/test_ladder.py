"""A ladder where it is hard: of feature maps, and with scales that are far apart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.distributions.normal_product import normal_product
from lowerbound.roles import Context


def test_a_ladder_of_feature_maps_is_trained_from_a_configuration(tmp_path: Path) -> None:
    """Three levels that stay pictures, at half the resolution of the one below each: no dense layer
    in between.
    """
    rng = np.random.default_rng(0)
    stripes = (np.arange(28) // rng.integers(2, 7, (64, 1)) % 2)[:, :, None] * np.ones((1, 1, 28))
    np.savez(tmp_path / "stripes.npz", x=stripes[:, None].astype(np.float32))
    small = "{part: FullyConv, width: 4, blocks: 1}"
    (tmp_path / "ladder.yaml").write_text(
        "model: {part: Hierarchical, inference: top_down, "
        "feature_shapes: [[4, 14, 14], [4, 7, 7], [4, 4, 4]]}\n"
        "latent: [[1, 14, 14], [2, 7, 7], [3, 4, 4]]\n"
        f"features: {small}\n"
        f"posteriors: {{part: DiagonalNormal, network: {small}}}\n"
        f"conditionals: {{part: DiagonalNormal, network: {small}}}\n"
        f"likelihood: {{part: Bernoulli, network: {small}}}\n"
        "epochs: 4\nbatch_size: 8\n"
    )
    run = tmp_path / "run"
    parts = [
        str(tmp_path / "stripes.npz"),
        "--config",
        str(tmp_path / "ladder.yaml"),
        "--device",
        "cpu",
    ]
    assert (
        main(["train", *parts, "--out", str(run), "--samples", "2", "--quiet", "--no-report"]) == 0
    )
    model, result = lb.load(run), json.loads((run / "evaluation.json").read_text())
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    assert [level["latent_dimensions"] for level in result["levels"]] == [196, 98, 48]
    assert sum(level["rate"]["value"] for level in result["levels"]) == pytest.approx(
        result["rate"]["value"], rel=1e-4
    )
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert epochs[-1]["train"]["elbo"] > epochs[0]["train"]["elbo"] + 5
    assert model.sample(2, seed=0).shape == (2, 1, 28, 28)
    code = model.encode(torch.rand(1, 1, 28, 28))
    assert model.decode(code[:, -48:]).shape == (1, 1, 28, 28)  # from the top level alone


@pytest.mark.parametrize("log_variance", [-60.0, 60.0])
def test_a_product_with_an_extreme_scale_keeps_its_gradient_in_float32(log_variance: float) -> None:
    """The square of a scale of e^-30, in a gradient its cube, is beyond what float32 holds; the
    product is not.
    """
    loc = torch.tensor([1.0, -3.0], requires_grad=True)
    logs = torch.tensor([log_variance, 0.0], requires_grad=True)
    first, second = (
        Independent(Normal(loc[i : i + 1], (0.5 * logs[i : i + 1]).exp()), 1) for i in (0, 1)
    )
    product = normal_product(first, second)
    near = 0 if log_variance < 0 else 1  # the narrow one decides
    mean, scale = float(product.mean.detach()), float(product.stddev.detach())
    assert mean == pytest.approx([1.0, -3.0][near])
    assert scale == pytest.approx(math.exp(0.5 * [log_variance, 0.0][near]), rel=1e-5)
    found = torch.autograd.grad(product.mean.sum() + product.stddev.log().sum(), [loc, logs])
    assert found[0].tolist() == pytest.approx([1.0 - near, float(near)])
    assert found[1].tolist() == pytest.approx([0.5 * (1 - near), 0.5 * near], abs=1e-6)


@pytest.mark.parametrize("posterior", [lb.posteriors.DiagonalNormal, lb.posteriors.FullNormal])
def test_a_product_is_the_two_densities_multiplied_up_to_a_constant(posterior: type) -> None:
    torch.manual_seed(0)
    first, second = (
        posterior((3,), (2,)).double()(2 * torch.randn(1, 3).double(), Context()) for _ in range(2)
    )
    diagonal = lb.posteriors.DiagonalNormal((3,), (2,)).double()(
        torch.randn(1, 3).double(), Context()
    )
    z = 3 * torch.randn(50, 1, 2).double()
    for other in (second, diagonal):  # forms may be mixed
        with torch.no_grad():
            left = normal_product(first, other).log_prob(z) - first.log_prob(z) - other.log_prob(z)
        assert torch.allclose(left, left[:1].expand(50, 1), atol=1e-8)
