"""The draw: one pass through a model, and the narrow waist of the library.

A model draws z_k ~ q(z|x), k = 1..K, and evaluates three log-densities. Objectives and estimators
are functions of the result and see nothing else: above the draw nobody knows what a network is,
below it nobody knows what is optimised.

    log w_k    = log p(x|z_k) + log p(z_k) - log q(z_k|x)
    distortion = -E_q[log p(x|z)]
    rate       = E_q[log q(z|x) - log p(z)] = KL(q(z|x) ‖ p(z))
    elbo       = -distortion - rate = E_q[log w] <= log p(x)
    iwae       = log sum_k m_k w_k, in expectation between the elbo and log p(x)

Every average over K is weighted by m_k, log m_k = -log K for samples and log q(z_k|x) where a
finite latent is enumerated, so that enumeration is no special case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions.kl import kl_per_dimension

RateEstimator = Literal["auto", "closed_form", "sampled"]


class _Held:
    """A property that is worked out once, with gradients where the draw was made with them, whoever
    is the first to ask.
    """

    def __init__(self, function: Callable[[Any], Tensor]) -> None:
        self.function, self.name, self.__doc__ = function, function.__name__, function.__doc__

    def __get__(self, draw: Any, owner: type) -> Tensor:
        if draw is None:
            return self  # type: ignore[return-value]  # of the class: for its docstring
        # the compiler finds out by itself what is needed, and needed twice
        if torch.compiler.is_compiling():
            return self.function(draw)
        is_otherwise = torch.is_grad_enabled() != draw.has_gradients
        with torch.set_grad_enabled(draw.has_gradients) if is_otherwise else nullcontext():
            value = self.function(draw)
        draw.__dict__[self.name] = value  # where Python looks before it asks here
        return value


@dataclass(frozen=True)
class Latent:
    """One latent of a draw. Its log-densities are worked out when they are first asked for: an
    objective whose KL is closed asks for none.

    Args:
        q: the approximate posterior, batch (B,); below the top of a hierarchy (K, B).
        p: the prior, batch (), (B,) or (K, B).
        z: the draws, (K, B, *Z), as the densities see them: of Concrete codes, what goes into the
            softmax or the sigmoid. In a hierarchy with path gradients it is an alias of what the
            next latent is drawn from (``z.view_as(z)``): an objective may weigh the gradient at z,
            and on its way from a density to the posterior's parameters that must happen once.
        kl: KL(q ‖ p) in closed form, (B,), or (K, B) where it is one given each draw of other
            latents; None where the pair has none, or where p depends on what is drawn from z.
        name: what it is called in the log, where several latents are no chain of levels; empty for
            the number of its level.
        scored: what log q(z|x) is evaluated by where that is not q: a copy without gradients, or
            the values, (K, B), nats.
        has_gradients: whether gradients are kept of what is worked out later: as when the draw was
            made.
    """

    q: Distribution
    p: Distribution
    z: Tensor
    kl: Tensor | None
    name: str = ""
    scored: Distribution | Tensor | None = None
    has_gradients: bool = field(default_factory=torch.is_grad_enabled, repr=False)

    @_Held
    def log_q(self) -> Tensor:
        """Log q(z|x) at z, (K, B), nats."""
        if isinstance(self.scored, Tensor):
            return self.scored
        log_q: Tensor = (self.q if self.scored is None else self.scored).log_prob(self.z)
        return log_q

    @_Held
    def log_p(self) -> Tensor:
        """Log p(z) at z, (K, B), nats."""
        log_p: Tensor = self.p.log_prob(self.z)
        return log_p


@dataclass(frozen=True)
class Draw:
    """One pass through a model: draws and log-densities.

    Args:
        latents: one for a plain VAE, several for a hierarchy.
        px: the likelihood p(x|z), batch (K, B).
        log_px: log p(x|z), (K, B), nats, summed over the event, constants included.
        log_m: log weight of each draw in an average over K, (K, B) or broadcastable to it.
        penalties: what a part asks to be added to the loss, by name, each (B,), nats.
        is_density: False where log_px is a score and no log-density; nothing derived from it is
            then called a bound.
        is_enumerated: True where the K values of z are all that q allows, so that averages are
            expectations without noise.
        is_relaxed: True where z lies between the codes on which q(z|x) and p(z) are probabilities;
            nothing is then a bound.
        usage: how often each code of a finite latent occurs in the batch, by the latent's name,
            each (codes,).
        has_gradients: as of :class:`Latent`.

    Example:
        >>> import lowerbound as lb, torch
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... )
        >>> draw = model(torch.ones(5, 4), samples=3)
        >>> draw.log_w.shape, draw.rate.shape
        (torch.Size([3, 5]), torch.Size([5]))
    """

    latents: tuple[Latent, ...]
    px: Distribution
    log_px: Tensor
    log_m: Tensor
    penalties: Mapping[str, Tensor] = field(default_factory=dict)
    is_density: bool = True
    is_enumerated: bool = False
    is_relaxed: bool = False
    usage: Mapping[str, Tensor] = field(default_factory=dict)
    has_gradients: bool = field(default_factory=torch.is_grad_enabled, repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """What each latent is called in the log: by its name, or by its number, 1, 2, ..."""
        return tuple(latent.name or str(level) for level, latent in enumerate(self.latents, 1))

    @property
    def log_qz(self) -> Tensor:
        """Log q(z|x), summed over the latents, (K, B)."""
        return _sum(latent.log_q for latent in self.latents)

    @property
    def log_pz(self) -> Tensor:
        """Log p(z), summed over the latents, (K, B)."""
        return _sum(latent.log_p for latent in self.latents)

    @property
    def log_w(self) -> Tensor:
        """Log w = log p(x, z) - log q(z|x), (K, B)."""
        return self.log_px + self.log_pz - self.log_qz

    @property
    def iwae(self) -> Tensor:
        """Log sum_k m_k w_k, (B,): the importance-weighted bound on log p(x), exact where a finite
        latent is enumerated.
        """
        return torch.logsumexp(self.log_w + self.log_m, 0)

    @_Held
    def distortion(self) -> Tensor:
        """-E_q[log p(x|z)], (B,); negative values are legitimate for densities."""
        return -self.average(self.log_px)

    @property
    def has_closed_form_rate(self) -> bool:
        """Whether every latent's KL is known in closed form."""
        return all(latent.kl is not None for latent in self.latents)

    @property
    def rate_per_dimension(self) -> Tensor | None:
        """The rate of each latent dimension, (B, dimensions); None where q or p has no independent
        entries.
        """
        flat = []
        for latent in self.latents:
            part = None if latent.kl is None else kl_per_dimension(latent.q, latent.p)
            if latent.kl is None or part is None:
                return None
            leading = max(1, len(latent.q.batch_shape), len(latent.p.batch_shape))
            part = part.reshape(*part.shape[:leading], -1)
            flat.append(part if leading == 1 else (self.m[..., None] * part).sum(0))
        return torch.cat(flat, 1)

    @property
    def rate(self) -> Tensor:
        """KL(q(z|x) ‖ p(z)), (B,): for each latent in closed form where there is one, else from the
        draws.
        """
        return self.rate_by("auto")

    def rate_by(self, estimator: RateEstimator) -> Tensor:
        """The rate, (B,), by the estimator named.

        Raises:
            ValueError: "closed_form" where a pair of distributions has none.
        """
        if estimator == "closed_form" and not self.has_closed_form_rate:
            latent = next(latent for latent in self.latents if latent.kl is None)
            raise ValueError(
                f"KL({type(latent.q).__name__} ‖ {type(latent.p).__name__}) has no closed form; "
                "use the sampled KL (kl='sampled' or 'auto'), or register a formula with "
                "torch.distributions.register_kl"
            )
        return _sum(self.rates_by(estimator))

    def rates_by(self, estimator: RateEstimator) -> tuple[Tensor, ...]:
        """What each latent adds to the rate, (B,): E_q[log q - log p], in closed form where there
        is one, or as asked for.

        That of a latent whose prior depends on what is drawn from it (inference from the bottom up)
        is no KL by itself, and may be negative; their sum is one.
        """
        rates = []
        for latent in self.latents:
            if latent.kl is None or estimator == "sampled":
                rates.append(self.average(latent.log_q - latent.log_p))
            else:
                rates.append(latent.kl if latent.kl.ndim == 1 else self.average(latent.kl))
        return tuple(rates)

    def average(self, values: Tensor) -> Tensor:
        """sum_k m_k v_k: (K, B) -> (B,)."""
        # a single weight is 1
        return values.squeeze(0) if len(values) == 1 else (self.m * values).sum(0)

    @_Held
    def m(self) -> Tensor:
        """The weights of the draws, which sum to one over K, as ``log_m``."""
        return self.log_m.exp()

    def scores(self, rate: Tensor, estimator: RateEstimator = "auto") -> dict[str, Tensor]:
        """What is reported of a draw, each (B,), by the names that are true of it.

        ``elbo``, ``rate`` and ``distortion`` in nats; where log_px is no log-density, ``rate`` and
        ``cross_entropy``; and where z lies between codes, no elbo. Of several latents also the rate
        of each, ``rate/1``, ``rate/2``, ... in their order, or by their names, as in ``rate/y``.
        The elbo is unweighted, whatever the objective weighs.
        """
        distortion = self.distortion.detach()
        rate = rate.detach()
        several = self.rates_by(estimator) if len(self.latents) > 1 else ()
        each = {
            f"rate/{name}": level.detach() for name, level in zip(self.names, several, strict=False)
        }
        if not self.is_density:
            return {"rate": rate, "cross_entropy": distortion, **each}
        if self.is_relaxed:
            return {"rate": rate, "distortion": distortion, **each}
        return {"elbo": -distortion - rate, "rate": rate, "distortion": distortion, **each}


def _sum(terms: Iterable[Tensor]) -> Tensor:
    total, *rest = terms
    for term in rest:
        total = total + term
    return total
