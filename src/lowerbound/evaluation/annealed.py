"""Annealed importance sampling with Hamiltonian transitions, and the sandwich of bidirectional Monte Carlo.

Between a start p_0(z), the posterior q(z|x) or the prior, and the joint lies a path of densities

    log f_b(z) = (1 - b) log p_0(z) + b log p(x, z),   0 = b_0 < b_1 < ... < b_T = 1

A chain starts at z_0 ~ p_0 and moves from z_{t-1} to z_t by a transition that leaves f_{b_t} invariant:

    log w = sum_t (b_t - b_{t-1}) [log p(x, z_{t-1}) - log p_0(z_{t-1})],   E[w] = p(x)

whatever T (Neal 2001), so that log (1/C) sum_c w_c is, in expectation, at most log p(x). Run backwards from an exact sample
of p(z|x), the same chain gives E[1/w] = 1 / p(x), hence an upper bound. Such a sample is known for data simulated from the
model, x and z ~ p(x, z): there log p(x) lies between the two (Grosse, Ghahramani and Adams 2015, arXiv 1511.02543; Wu,
Burda, Salakhutdinov and Grosse 2017, arXiv 1611.04273).

The transition is a Hamiltonian trajectory with a Metropolis test, in units of the start's standard deviations. Its step
size is adapted, for each example and temperature, by chains of their own that are then thrown away; in the chains that
count it is fixed, since a transition that learns from its own past leaves nothing invariant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.checks import check_density, check_finite
from lowerbound.distributions import stddev
from lowerbound.draw import Draw
from lowerbound.messages import unknown
from lowerbound.modes import evaluating
from lowerbound.roles import Context
from lowerbound.seeding import seeded

Start = Literal["posterior", "prior"]

LEAPFROG = 3  # short trajectories at many temperatures do better than long ones at few (benchmarks/evidence.py)
ROWS = 2**11  # chains times examples at a time: enough for fast matrix products, little memory for convolutions
ACCEPTED = 0.65  # share of trajectories to be accepted, the optimum of long ones (Neal 2011, arXiv 1206.1901)
PACE = 0.1  # how fast the logarithm of the step size follows the share accepted; the path changes over many steps
JITTER = 0.3  # share by which the step of each trajectory varies at random, whatever the state
FIRST = 0.3  # first step size, in standard deviations of the start
BEND = 4.0  # how much closer the temperatures lie at both ends of the path, where the density changes fastest


class Joint(Protocol):
    """What annealing asks of a model: a draw, and the joint density at any z."""

    def __call__(self, x: Tensor, context: Context | None, samples: int) -> Draw:
        """A draw from q(z|x)."""

    def log_joint(self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None) -> Tensor:
        """Log p(x, z), (K, B)."""

    def dream(self, n: int, context: Context | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Pairs from p(x, z)."""


@dataclass(frozen=True)
class Annealed:
    """What C chains say about each of n examples, in nats.

    Args:
        log_w: log-weights of the chains, (C, n), float64.
        acceptance: share of trajectories that were accepted, (n,).
    """

    log_w: Tensor
    acceptance: Tensor

    @property
    def log_marginal(self) -> Tensor:
        """The stochastic lower bound on log p(x), (n,)."""
        return torch.logsumexp(self.log_w, 0) - math.log(len(self.log_w))


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of n examples that were simulated from the model, each (n,), in nats.

    Args:
        x: the examples, (n, *X).
        lower: in expectation at most log p(x).
        upper: in expectation at least log p(x).
        acceptance: share of trajectories that were accepted.
    """

    x: Tensor
    lower: Tensor
    upper: Tensor
    acceptance: Tensor


def annealed(
    model: Joint,
    x: Tensor,
    context: Context | None = None,
    chains: int = 16,
    temperatures: int = 200,
    leapfrog: int = LEAPFROG,
    start: Start = "posterior",
    seed: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Annealed:
    """A stochastic lower bound on log p(x) of each example by annealed importance sampling.

    Args:
        model: a model with continuous latents.
        x: the data, (n, *X).
        context: labels, mask and the like.
        chains: C, independent chains for each example.
        temperatures: T, densities between the start and the joint; the bound tightens with it.
        leapfrog: steps of a trajectory, each of which costs one gradient of log p(x, z).
        start: "posterior" starts at q(z|x), which is near; "prior" at p(z), which does not depend on q at all.
        seed: of the chains; None uses the global state.
        on_progress: called with (transitions done, transitions in all).

    Raises:
        ValueError: a count below 1, latents that are not continuous and unbounded, a score that is no log-density, or
            weights that are not finite.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> annealed(model, torch.ones(5, 4), chains=3, temperatures=10, seed=0).log_marginal.shape
        torch.Size([5])
    """
    plan = _Plan(chains, temperatures, leapfrog, start)
    batches = x.split(max(1, ROWS // chains))
    ticks = _Ticks(len(batches) * 2 * (temperatures - 1), on_progress)
    parts = []
    done = 0
    with seeded(seed), evaluating(model):  # type: ignore[arg-type]
        for batch in batches:
            path = _Path(model, batch, (context or Context())[done : done + len(batch)], plan)
            parts.append(plan.forward(path, plan.adapt(path, ticks), ticks))
            done += len(batch)
    log_w = torch.cat([part[0] for part in parts], 1)
    check_finite((~torch.isfinite(log_w)).sum(0), chains)
    return Annealed(log_w, torch.cat([part[1] for part in parts]))


def sandwich(
    model: Joint,
    n: int = 100,
    chains: int = 16,
    temperatures: int = 200,
    leapfrog: int = LEAPFROG,
    start: Start = "posterior",
    seed: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Sandwich:
    """Lower and upper bounds on log p(x) of examples simulated from the model, where an exact sample of p(z|x) is known.

    A narrow sandwich says that annealing with these settings finds log p(x) of data like those that the model makes; how
    like them the real data are it does not say.

    Args:
        model: a model with continuous latents.
        n: examples to simulate.
        chains: C, for each example and each of the two directions.
        temperatures: T.
        leapfrog: steps of a trajectory.
        start: the other end of the path, as in :func:`annealed`.
        seed: of the simulation and the chains.
        on_progress: called with (transitions done, transitions in all).

    Raises:
        ValueError: as in :func:`annealed`.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> found = sandwich(model, n=5, chains=8, temperatures=20, seed=0)
        >>> (found.upper - found.lower).abs().max() < 1
        tensor(True)
    """
    plan = _Plan(chains, temperatures, leapfrog, start)
    if n < 1:
        raise ValueError(f"n is {n}: at least 1 example must be simulated")
    size = max(1, ROWS // chains)
    ticks = _Ticks(math.ceil(n / size) * 3 * (temperatures - 1), on_progress)
    parts = []
    with seeded(seed), evaluating(model):  # type: ignore[arg-type]
        x, latents = model.dream(n)
        for first in range(0, n, size):
            rows = slice(first, first + size)
            path = _Path(model, x[rows], Context(), plan)
            steps = plan.adapt(path, ticks)
            lower, accepted = plan.forward(path, steps, ticks)
            upper, accepted_back = plan.backward(path, steps, tuple(z[rows] for z in latents), ticks)
            parts.append((lower, upper, (accepted + accepted_back) / 2))
    lower, upper = (torch.cat([part[i] for part in parts], 1) for i in (0, 1))
    check_finite((~torch.isfinite(lower) | ~torch.isfinite(upper)).sum(0), chains)
    return Sandwich(
        x=x,
        lower=torch.logsumexp(lower, 0) - math.log(chains),
        upper=math.log(chains) - torch.logsumexp(upper, 0),
        acceptance=torch.cat([part[2] for part in parts]),
    )


@dataclass(frozen=True)
class _Point:
    """A state of every chain with the two log-densities there, (C, B), and their gradients, (C, B, D)."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_gradient: Tensor
    joint_gradient: Tensor

    def log_density(self, b: float) -> Tensor:
        return (1 - b) * self.log_start + b * self.log_joint

    def gradient(self, b: float) -> Tensor:
        return (1 - b) * self.start_gradient + b * self.joint_gradient

    @property
    def log_ratio(self) -> Tensor:
        return (self.log_joint - self.log_start).double()

    def where(self, condition: Tensor, other: _Point) -> _Point:
        """The state itself where the condition (C, B) holds, the other elsewhere."""
        merged = [
            torch.where(condition if mine.ndim == 2 else condition[..., None], mine, theirs)
            for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
        ]
        return _Point(*merged)


class _Path:
    """The two ends of the path for one batch of examples."""

    def __init__(self, model: Joint, x: Tensor, context: Context, plan: _Plan) -> None:
        self.model, self.x, self.context = model, x, context
        with torch.no_grad():
            draw = model(x, context, 1)
        check_density(draw.is_density)
        self.ends = [latent.q if plan.start == "posterior" else latent.p for latent in draw.latents]
        for latent, end in zip(draw.latents, self.ends, strict=True):
            _check_end(latent.p, end)
        self.shapes = [end.event_shape for end in self.ends]
        self.sizes = [shape.numel() for shape in self.shapes]
        scales = [stddev(end).expand(len(x), *end.event_shape).reshape(len(x), -1) for end in self.ends]
        self.scale = torch.cat(scales, 1).detach()

    def sample(self, chains: int) -> _Point:
        """States from the start."""
        draws = []
        for end in self.ends:
            shape = torch.Size((chains,) if end.batch_shape else (chains, len(self.x)))
            draws.append(end.rsample(shape) if end.has_rsample else end.sample(shape))
        return self.at(self.flat(draws))

    def flat(self, latents: list[Tensor]) -> Tensor:
        """(C, B, *Z) of each latent -> (C, B, D)."""
        return torch.cat([z.reshape(*z.shape[:2], -1) for z in latents], -1)

    def at(self, z: Tensor) -> _Point:
        """Densities and gradients at (C, B, D)."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            parts = z.split(self.sizes, -1)
            latents = tuple(
                part.unflatten(-1, shape) if shape else part[..., 0]
                for part, shape in zip(parts, self.shapes, strict=True)
            )
            pairs = zip(self.ends, latents, strict=True)
            log_start = torch.stack([end.log_prob(latent) for end, latent in pairs]).sum(0)
            log_joint = self.model.log_joint(self.x, latents, self.context)
            (start_gradient,) = torch.autograd.grad(log_start.sum(), z)
            (joint_gradient,) = torch.autograd.grad(log_joint.sum(), z)
        return _Point(z.detach(), log_start.detach(), log_joint.detach(), start_gradient, joint_gradient)


@dataclass(frozen=True)
class _Plan:
    """How the path is walked."""

    chains: int
    temperatures: int
    leapfrog: int
    start: Start

    def __post_init__(self) -> None:
        for name in ("chains", "temperatures", "leapfrog"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.start not in get_args(Start):
            raise ValueError(unknown("start", self.start, get_args(Start)))

    @property
    def path(self) -> list[float]:
        """b_0 .. b_T, from 0 to 1, closer at both ends."""
        bent = torch.sigmoid(torch.linspace(-BEND, BEND, self.temperatures + 1, dtype=torch.float64))
        path: list[float] = ((bent - bent[0]) / (bent[-1] - bent[0])).tolist()
        return path

    def adapt(self, path: _Path, ticks: _Ticks) -> list[Tensor]:
        """The step size at b_1 .. b_{T-1}, each (B,), found by chains that are thrown away."""
        point = path.sample(self.chains)
        log_step = torch.full_like(point.log_joint[0], math.log(FIRST))
        steps = []
        for b in self.path[1:-1]:
            point, accepted = self.transition(path, point, b, log_step.exp())
            log_step = log_step + PACE * (accepted - ACCEPTED)
            steps.append(log_step.exp())
            ticks.tick()
        return steps

    def forward(self, path: _Path, steps: list[Tensor], ticks: _Ticks) -> tuple[Tensor, Tensor]:
        """Log w of chains from the start to the joint, (C, B), and the share accepted, (B,)."""
        point = path.sample(self.chains)
        b = self.path
        log_w = b[1] * point.log_ratio
        total = torch.zeros_like(point.log_joint[0])
        for t, step in enumerate(steps, 1):
            point, accepted = self.transition(path, point, b[t], step)
            log_w = log_w + (b[t + 1] - b[t]) * point.log_ratio
            total = total + accepted
            ticks.tick()
        return log_w, total / max(1, len(steps))

    def backward(
        self, path: _Path, steps: list[Tensor], latents: tuple[Tensor, ...], ticks: _Ticks
    ) -> tuple[Tensor, Tensor]:
        """Log 1/w of chains from an exact sample of p(z|x) to the start, (C, B), and the share accepted, (B,)."""
        point = path.at(path.flat([z.expand(self.chains, *z.shape) for z in latents]))
        b = self.path
        log_w = torch.zeros_like(point.log_ratio)
        total = torch.zeros_like(point.log_joint[0])
        for t in range(len(steps), 0, -1):
            log_w = log_w - (b[t + 1] - b[t]) * point.log_ratio
            point, accepted = self.transition(path, point, b[t], steps[t - 1])
            total = total + accepted
            ticks.tick()
        return log_w - b[1] * point.log_ratio, total / max(1, len(steps))

    def transition(self, path: _Path, point: _Point, b: float, step: Tensor) -> tuple[_Point, Tensor]:
        """One Hamiltonian trajectory at b with steps (B,): the next states, and the share accepted, (B,)."""
        # a trajectory that is half a period long turns back on its start: no step size is kept for long
        step = step[:, None] * (1 - JITTER + 2 * JITTER * float(torch.rand(())))
        momentum = torch.randn_like(point.z)
        before = point.log_density(b) - 0.5 * momentum.square().sum(-1)
        new, p = point, momentum
        for _ in range(self.leapfrog):
            p = p + 0.5 * step * path.scale * new.gradient(b)
            new = path.at(new.z + step * path.scale * p)
            p = p + 0.5 * step * path.scale * new.gradient(b)
        change = new.log_density(b) - 0.5 * p.square().sum(-1) - before
        probability = change.exp().clamp(max=1).nan_to_num(0.0)  # a trajectory that ran away is rejected
        accepted = torch.rand_like(probability) < probability
        return new.where(accepted, point), probability.mean(0)


class _Ticks:
    """Counts transitions for whoever watches."""

    def __init__(self, total: int, on_progress: Callable[[int, int], None] | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def tick(self) -> None:
        self.done += 1
        if self.on_progress:
            self.on_progress(self.done, self.total)


def _check_end(pz: Distribution, end: Distribution) -> None:
    """Refuse latents that cannot be moved along gradients."""
    name = type(getattr(pz, "base_dist", pz)).__name__
    support = pz.support
    if support is not None and support.is_discrete:
        raise ValueError(
            f"annealing moves z along gradients, and the latent of p(z) = {name} is discrete; use the importance-weighted "
            "estimator, or enumerate it"
        )
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support not in (constraints.real, constraints.real_vector):
        raise ValueError(
            f"annealing moves z on the whole real line, and the latent of p(z) = {name} lies on {support}; use the "
            "importance-weighted estimator"
        )
    if len(end.batch_shape) > 1:
        raise ValueError(
            "annealing needs a start that does not depend on other latents, and here it does; use the "
            "importance-weighted estimator"
        )
