"""Missing entries filled in by the model: importance-weighted means and draws.

    E[x_mis | x_obs] = E_q[w E[x_mis|z]] / E_q[w],   w = p(x_obs|z) p(z) / q(z|x_obs)

estimated from K draws of q with self-normalised weights, and a draw of x_mis | x_obs by resampling
one of the K z by its weight (Mattei and Frellsen 2019, arXiv 1812.02633, section 3.3). Entries are
taken to be independent given z.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from lowerbound.checks import check_density, check_finite
from lowerbound.distributions import mean
from lowerbound.draw import Draw
from lowerbound.evaluation.evidence import BATCH_EXAMPLES, MAX_LIKELIHOOD_VALUES
from lowerbound.roles import Context
from lowerbound.utils.memory import values_held
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded


def impute(
    model: Callable[..., Draw],
    x: Tensor,
    context: Context,
    samples: int = 1000,
    seed: int | None = 0,
    draw: bool = False,
    levels: Tensor | None = None,
) -> Tensor:
    """The examples with every missing entry filled in, (n, *X); what is observed stays as it is.

    Args:
        model: gives a draw; put into evaluation mode meanwhile.
        x: examples, (n, *X); what stands at missing entries plays no part.
        context: with a mask that says which are missing, (n, *X).
        samples: K, draws of z for each example.
        seed: of the draws; None draws from torch's global generators, or from those of the
            seeded call that this one is part of.
        draw: False gives the mean of x_mis | x_obs, whose squared error is smallest; True a draw,
            so that several seeds give multiple imputations.
        levels: (*X), L for an entry that holds one of L classes on {0, 1/(L-1), ..., 1}, of which
            there is no mean: it gets the most probable class; 0 for every other entry.

    Raises:
        ValueError: no draw, no mask, weights that are not finite, or a model whose score is no
            log-density.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((1,)),
        ...     posterior=lb.posteriors.DiagonalNormal((2,), (1,)),
        ...     likelihood=lb.likelihoods.Normal((1,), (2,)),
        ... )
        >>> x = torch.tensor([[0.5, torch.nan]])
        >>> full = impute(model, x, Context(mask=x.isfinite()), samples=10, seed=0)
        >>> full[0, 0], bool(full.isfinite().all())
        (tensor(0.5000), True)
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}: at least 1 draw is needed")
    if context.mask is None:
        raise ValueError("nothing is missing: the context has no mask of observed entries")
    filled, unfit = [], []
    with (
        torch.no_grad(),
        seeded(seed),
        evaluating(model) if isinstance(model, nn.Module) else nullcontext(),
    ):
        for start in range(0, len(x), BATCH_EXAMPLES):
            rows = slice(start, start + BATCH_EXAMPLES)
            filling = _Filling(len(x[rows]), draw, levels)
            size, done = 1, 0  # the first draw shows what one costs
            while done < samples:
                asked = min(size, samples - done)
                drawn = model(x[rows], context[rows], asked)
                check_density(drawn.is_density)
                filling.add(drawn)
                size = max(
                    1,
                    MAX_LIKELIHOOD_VALUES // max(1, values_held(drawn.px) // drawn.log_w.shape[0]),
                )
                done += asked
            observed = context[rows].mask.to(x.device, torch.bool)  # type: ignore[union-attr]  # there is one
            filled.append(torch.where(observed, x[rows], filling.result.to(x)))
            unfit.append(filling.unfit)
    check_finite(torch.cat(unfit), samples)
    return torch.cat(filled)


class _Filling:
    """A streaming self-normalised average over draws, or one of them by its weight."""

    def __init__(self, examples: int, draw: bool, levels: Tensor | None) -> None:
        self.draw, self.levels = draw, levels
        self.log_total: Tensor | None = None
        self.value = torch.zeros(())
        self.votes = torch.zeros(())
        self.unfit = torch.zeros(examples)

    def add(self, drawn: Draw) -> None:
        log_w = drawn.log_w + drawn.log_m + torch.log(torch.tensor(float(len(drawn.log_w))))
        self.unfit = self.unfit + (~torch.isfinite(log_w)).sum(0).cpu()
        new = torch.logsumexp(log_w, 0)
        total = new if self.log_total is None else torch.logaddexp(self.log_total, new)
        # what share of all the weight so far these draws have, (B,)
        share = (new - total).exp() if self.log_total is not None else torch.ones_like(new)
        self.log_total = total
        weights = torch.softmax(log_w, 0)
        if self.draw:
            x = drawn.px.sample()
            chosen = torch.multinomial(weights.T, 1)[:, 0]
            picked = x[chosen, torch.arange(x.shape[1], device=x.device)]
            takes = _beside(torch.rand_like(share) < share, picked)
            self.value = torch.where(takes, picked, self.value.to(picked))
            return
        means = mean(drawn.px)
        average = (_beside(weights, means) * means).sum(0)
        share = _beside(share, average)
        self.value = (1 - share) * self.value.to(average) + share * average
        if self.levels is not None and bool(self.levels.any()):
            levels = self.levels.to(means)
            classes = torch.arange(int(levels.max()), device=means.device)
            places = (drawn.px.sample() * (levels - 1)).round()[..., None] == classes
            votes = (_beside(weights, places) * places).sum(0)
            self.votes = (1 - share[..., None]) * self.votes.to(votes) + share[..., None] * votes

    @property
    def result(self) -> Tensor:
        """(B, *X)."""
        if self.draw or self.levels is None or not bool(self.levels.any()):
            return self.value
        levels = self.levels.to(self.value)
        return torch.where(
            levels > 0, self.votes.argmax(-1) / (levels - 1).clamp(min=1), self.value
        )


def _beside(weights: Tensor, values: Tensor) -> Tensor:
    """Weights with as many dimensions as the values that they weigh."""
    return weights.reshape(*weights.shape, *[1] * (values.ndim - weights.ndim))
