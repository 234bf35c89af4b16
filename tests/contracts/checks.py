"""What several contracts ask: gradients, parameters away from where they start, draws of known
noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.draw import Draw, Latent
from lowerbound.objective import Objective, Step, Terms
from lowerbound.roles import Context
from lowerbound.shapes import Shape
from lowerbound.units import Standardizer

SHAPES: list[Shape] = [(), (1,), (3,), (1, 4, 5), (3, 2, 2)]
NO_CONTEXT = Context()


def within(estimate: Tensor, truth: float | Tensor, errors: float = 4.0) -> bool:
    """Whether the mean of independent values lies within so many standard errors of the truth."""
    stderr = estimate.std() / len(estimate) ** 0.5
    return bool((estimate.mean() - truth).abs() <= errors * stderr + 1e-6)


def all_parameters_get_gradients(module: nn.Module) -> None:
    missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing, f"no gradient reaches {missing}"


def moved(part: nn.Module) -> nn.Module:
    """The part somewhere else than where it starts, in units that are not those of [0, 1]: what
    holds only there is luck.
    """
    with torch.no_grad():
        for p in part.parameters():
            p.mul_(3).add_(0.2 * torch.randn_like(p) / (p.shape[-1] ** 0.5 if p.ndim > 1 else 1))
        for module in part.modules():
            if isinstance(module, Standardizer):
                module.learn(100 + 50 * torch.randn(20, *module.loc.shape))
    return part


def check_gradients(loss: Callable[[], Tensor], *modules: nn.Module) -> None:
    """The gradient of each parameter is what central differences say, in float64, along a random
    direction for each.

    ``loss`` must fix its own noise. At a step of 1e-6 the difference is off by about 1e-12 in its
    third derivative, and by 1e-10 of the loss in rounding.
    """
    named = [
        (name, p) for module in modules for name, p in module.named_parameters() if p.requires_grad
    ]
    value = loss()
    gradients = torch.autograd.grad(value, [p for _, p in named])
    generator, step, size = torch.Generator().manual_seed(1), 1e-6, max(1.0, abs(value.item()))
    for (name, p), gradient in zip(named, gradients, strict=True):
        assert p.dtype == torch.float64
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        direction /= direction.norm()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * step * direction)
                ends.append(loss().item())
                p.sub_(sign * step * direction)
        expected = (ends[0] - ends[1]) / (2 * step)
        slope = (gradient * direction).sum().item()
        assert abs(slope - expected) <= 1e-5 * abs(expected) + 1e-8 * size, (
            f"{name}: {slope}, not {expected}"
        )


def asked(model: lb.VAE, objective: Objective, x: Tensor) -> Draw:
    """The draw that an objective asks for."""
    return model(x, None, objective.samples, objective.path_gradient, objective.reparameterised)


def check_loss_gradients(model: lb.VAE, objective: Objective, x: Tensor) -> None:
    """The loss with fixed noise, in the parameters of every part; and the objective's own, in the
    objective's.

    An objective that asks for path gradients, or for draws that stay where they are, declares that
    the posterior's are not those of its value: of it all other parameters are compared.
    """

    def terms() -> Terms:
        torch.manual_seed(7)
        return objective(asked(model, objective, x), Step(0.5, 100))

    elsewhere = objective.path_gradient or not objective.reparameterised
    parts = (model.prior, model.likelihood) if elsewhere else (model,)
    if list(objective.parameters()):
        check_gradients(lambda: terms().total, *parts)
        check_gradients(lambda: terms().own_loss, objective)
    else:
        check_gradients(lambda: terms().total, *parts)


def drawn_at(model: lb.VAE, x: Tensor, z: Tensor) -> Draw:
    """What the model draws where its noise is such that z (K, B, *Z) comes out."""
    qz, px = model.posterior(x, NO_CONTEXT), model.likelihood(z, NO_CONTEXT)
    pz = model.prior(NO_CONTEXT, model.posterior)
    latent = Latent(qz, pz, z, closed_form_kl(qz, pz))
    log_px = model.likelihood.log_prob(px, x, None)
    return Draw((latent,), px, log_px, torch.full_like(log_px.detach(), -math.log(len(z))))


def seeded_draw(distribution: Distribution) -> Tensor:
    """Seven draws, always of the same noise."""
    torch.manual_seed(0)
    return distribution.rsample((7,))
