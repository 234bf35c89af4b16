import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.objective import Step
from lowerbound.objectives.factor_vae import permuted
from tests.conftest import make_model
from tests.contracts import ObjectiveContract, within
from tests.known_models import TwoLatents

FactorVAE = lb.objectives.FactorVAE
STEP = Step(1.0, 100)


class TestFactorVAE(ObjectiveContract):
    def make(self) -> lb.objectives.FactorVAE:
        return FactorVAE((2,))

    def test_the_loss_is_the_elbo_and_gamma_times_the_mean_of_the_critics_logit(self) -> None:
        objective = FactorVAE((2,), gamma=7.0)
        _, draw = self.draw(samples=3)
        terms = objective.terms(draw, STEP)
        logit = objective.critic(draw.latents[0].z.reshape(-1, 2)).reshape(3, 5).mean(0)
        assert torch.allclose(terms.loss, draw.distortion + draw.rate + 7 * logit, atol=1e-5)
        assert torch.allclose(terms.log["total_correlation"], logit, atol=1e-6)

    def test_the_critic_finds_a_density_ratio_that_is_known(self) -> None:
        """Of two normal entries of correlation r: log N(z; 0, S) - log N(z; 0, I), of mean -1/2
        log(1 - r^2).
        """
        r = 0.8
        joint = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, r], [r, 1.0]]))
        apart = MultivariateNormal(torch.zeros(2), torch.eye(2))
        objective = FactorVAE(
            (2,), network=lambda i, o: lb.networks.MLP(i, o, hidden=(64, 64), activation="SiLU")
        )
        adam = torch.optim.Adam(objective.parameters(), lr=3e-3, betas=objective.adam["betas"])
        for step in range(600):
            adam.param_groups[0]["lr"] = 3e-3 * (1 - step / 600)
            adam.zero_grad()
            objective.critic_loss(joint.sample((1, 1024))).mean().backward()
            adam.step()
        z = joint.sample((1, 4000))
        with torch.no_grad():
            log_ratio = objective.log_ratio(z)[0]
        truth = joint.log_prob(z[0]) - apart.log_prob(z[0])
        assert (log_ratio - truth).square().mean().sqrt() < 0.15 * truth.std()
        assert (log_ratio.mean() + 0.5 * math.log(1 - r**2)).abs() < 0.06
        # and at the optimum its own loss is that of the best critic
        best = nn.functional.softplus(-truth).mean() / 2
        shuffled = permuted(z)[0]
        best = (
            best
            + nn.functional.softplus(joint.log_prob(shuffled) - apart.log_prob(shuffled)).mean() / 2
        )
        assert (objective.critic_loss(z).mean() - best).abs() < 0.02

    def test_permuted_codes_keep_their_marginals_and_lose_their_dependence(self) -> None:
        z = torch.randn(2, 5000, 1) * torch.ones(3) + 0.1 * torch.randn(2, 5000, 3)
        other = permuted(z)
        assert torch.equal(other.sort(1).values, z.sort(1).values)
        for k in range(2):
            product = other[k, :, 0] * other[k, :, 1]
            assert within(product, 0.0)
        assert not torch.equal(other[0].argsort(0), other[1].argsort(0))

    def test_batch_statistics_of_the_critic_move_once_a_step(self) -> None:
        objective = FactorVAE(
            (2,), network=lambda i, o: nn.Sequential(nn.BatchNorm1d(2), lb.networks.MLP(i, o))
        )
        _, draw = self.draw()
        objective.terms(draw, STEP)
        assert objective.critic[0].num_batches_tracked == 1

    def test_it_is_a_bound_only_without_the_critic(self) -> None:
        assert [FactorVAE((2,), gamma=gamma).is_bound for gamma in (0.0, 1.0, 10.0)] == [
            True,
            False,
            False,
        ]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"gamma": -1.0}, "gamma is -1.0"),
            ({"gamma": math.inf}, "gamma is inf"),
            ({"learning_rate": 0.0}, "learning_rate is 0.0"),
            ({"betas": (0.5, 1.0)}, "betas is"),
            ({"betas": (0.5,)}, "betas is"),
        ],
    )
    def test_refuses_what_makes_no_sense(self, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FactorVAE((2,), **settings)

    def test_a_model_that_does_not_fit_is_refused(self) -> None:
        _, draw = self.draw()
        with pytest.raises(
            ValueError, match=r"critic of codes of shape \(3,\).* give it z_shape=\(2,\)"
        ):
            FactorVAE((3,)).check(draw)
        with pytest.raises(ValueError, match="FactorVAE is about one latent, and this model has 2"):
            FactorVAE((2,)).check(TwoLatents()(torch.rand(5, 4).double()))


def trained(data: Dataset, **how: Any) -> tuple[lb.VAE, lb.objectives.FactorVAE, lb.History]:
    torch.manual_seed(0)
    model, objective = make_model(data), FactorVAE((3,), gamma=5.0)
    history = lb.fit(model, objective, data, **{"epochs": 2, "progress": False, **how})
    return model, objective, history


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_each_is_moved_by_its_own_loss_with_its_own_settings(
    binary_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = []
    step = torch.optim.Adam.step

    def seen(self: torch.optim.Adam, *args: object) -> object:
        groups.append(
            [{k: v for k, v in group.items() if k != "params"} for group in self.param_groups]
        )
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    trained(binary_digits, schedule="cosine", learning_rate=2e-3)
    for model, critic in groups:
        assert (model["betas"], critic["betas"]) == ((0.9, 0.999), (0.5, 0.9))
        assert critic["lr"] == pytest.approx(model["lr"] * 1e-4 / 2e-3)
    assert groups[0][1]["lr"] == pytest.approx(1e-4)
    assert groups[-1][1]["lr"] == pytest.approx(0, abs=1e-9)


def test_clipping_one_does_not_clip_the_other(
    binary_digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[list[float]] = []
    step = torch.optim.Adam.step

    def seen(self: torch.optim.Adam, *args: object) -> object:
        norms.append(
            [
                float(nn.utils.get_total_norm([p.grad for p in g["params"]]))
                for g in self.param_groups
            ]
        )
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    trained(binary_digits, epochs=1)
    free = norms.copy()
    norms.clear()
    assert free[0][0] > 10 * free[0][1]  # the model's gradient is that of many pixels
    trained(binary_digits, epochs=1, clip=2 * free[0][1])
    assert norms[0][0] == pytest.approx(2 * free[0][1], rel=1e-4)
    assert norms[0][1] == pytest.approx(free[0][1], rel=1e-4)


def test_interrupted_and_resumed_it_ends_with_the_same_critic_bit_for_bit(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    how = {"epochs": 2, "batch_size": 400, "progress": False, "checkpoint_seconds": 0}
    whole, critic, history = trained(binary_digits, **how, out=tmp_path / "whole")
    for at in (1, 5):
        torch.manual_seed(0)
        model, objective = make_model(binary_digits), FactorVAE((3,), gamma=5.0)
        model.register_forward_hook(stopping(at + 1))  # the first pass is the meeting
        how["out"] = tmp_path / f"cut-{at}"
        with pytest.raises(KeyboardInterrupt):
            lb.fit(model, objective, binary_digits, **how)
        torch.manual_seed(1)
        model, objective = (
            make_model(binary_digits),
            FactorVAE((3,), gamma=5.0),
        )  # other weights: they come from the run
        again = lb.fit(model, objective, binary_digits, **how, resume=True)
        assert torch.equal(flat(model), flat(whole))
        assert torch.equal(flat(objective), flat(critic))
        assert again.series("critic_loss") == history.series("critic_loss")


def stopping(after: int) -> Callable[..., None]:
    passes = iter(range(after))

    def hook(*_: object) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    return hook


def test_its_quantities_are_in_the_metrics_and_its_own_loss_is_no_part_of_the_loss(
    binary_digits: Dataset,
) -> None:
    _, _, history = trained(binary_digits)
    for record in history.epochs:
        for values in (record["train"], record["valid"]):
            expected = values["rate"] + values["distortion"] + 5 * values["total_correlation"]
            assert values["loss"] == pytest.approx(expected, rel=1e-5)
            assert 0 < values["critic_loss"] < 1


def test_a_batch_of_one_is_refused(binary_digits: Dataset) -> None:
    with pytest.raises(ValueError, match="batch_size is 1, and FactorVAE compares the examples"):
        trained(binary_digits, batch_size=1)


def test_no_critic_is_asked_about_a_score_that_it_was_not_trained_with(digits: Dataset) -> None:
    """It is not saved with the model, so what was minimised cannot be evaluated, and is not
    replaced by another number.
    """
    model = make_model(digits, likelihood="BinaryCrossEntropy")
    assert lb.evaluate(model, digits, samples=2, objective=FactorVAE((3,))).objective is None
    assert (
        lb.evaluate(model, digits, samples=2, objective=lb.objectives.ELBO()).objective is not None
    )
