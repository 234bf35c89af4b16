"""Evaluation: every example of a split exactly once, and an estimate with its standard error out.

nll = -L_K, an upper bound on -log p(x) in expectation; elbo = -rate - distortion;
bits_per_dim = nll / (D log 2) for discrete data, and (nll + D log L) / (D log 2) for a density on
data dequantised from L levels, where it bounds the bits of the levels
(:class:`~lowerbound.data.transforms.Dequantise`). Any other density has none.

Where entries are missing, x is what is observed: nll estimates -log p(x_observed), D is how many
entries are observed, and bits per dimension are those of all observed entries over their number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lowerbound.checks import check_finite
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.active_units import active_units
from lowerbound.evaluation.annealed import Annealed, annealed
from lowerbound.evaluation.annealing import doubts
from lowerbound.evaluation.collapse import COLLAPSED, REMEDIES, collapsed_levels, is_collapsed
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.information import information
from lowerbound.evaluation.log_marginal import Evidence, evidence
from lowerbound.evaluation.result import Evaluation, Kind, Level, Point
from lowerbound.evaluation.weights import (
    TRUSTED,
    bound,
    effective_samples,
    pareto_k,
    remaining_bias,
)
from lowerbound.model import Model
from lowerbound.objective import Objective, Step
from lowerbound.parallel.processes import Processes, join
from lowerbound.roles import Context
from lowerbound.shapes import numel
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.messages import unknown
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import part_seed, seeded

Estimator = Literal["importance", "ais"]
Networks = Literal["32-true", "bf16-mixed"]

SAMPLES = (
    100  # L_100 is within a nat of L_5000 on MNIST-sized models and takes seconds; papers use 5000
)
MIN_DRAWS_TO_WARN = (
    100  # draws below which the fit of the tail scatters so much that its 0.7 says little
)
# of annealing: the logarithm of their mean is biased by half the variance of one weight over 16
CHAINS = 16
TEMPERATURES = 200  # narrow sandwiches on MNIST-sized models: benchmarks/evidence.py
AGGREGATED = (
    2000  # examples that estimate the aggregate posterior, at a cost that is quadratic in them
)
OF_THE_OBSERVED = "; of the observed entries of x alone, the missing ones being marginalised"
IN_BFLOAT16 = "; networks in bfloat16"
# share of heavy-tailed examples that is worth a warning; at K = 100 the fit scatters by 0.2
HEAVY = 0.2


def evaluate(
    model: Model,
    data: Dataset,
    split: str = "test",
    samples: int = SAMPLES,
    batch_size: int = 100,
    seed: int = 0,
    objective: Objective | None = None,
    curve: bool = False,
    estimator: Estimator = "importance",
    chains: int = CHAINS,
    temperatures: int = TEMPERATURES,
    examples: int | None = None,
    precision: Networks = "32-true",
    on_progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a model on one split: every example exactly once, K draws for each.

    Where several processes were started together (torchrun), they share the batches, and all must
    call this; each returns the whole result, which is one process's but for annealed chains: those
    are others, of the same distribution.

    Args:
        model: the model; its mode and device are left as they are.
        data: the data set.
        split: "test", "valid" or "train".
        samples: K, draws for each example. Where the model enumerates its latent, every value of z
            counts once instead, and nll is -log p(x) itself.
        batch_size: examples at a time; the result does not depend on it beyond the noise of the
            draws.
        seed: of the draws.
        objective: what the model was trained by; only asked where its score is no log-density, to
            report what was minimised, and not where that is a statistic of a batch, which no
            example has by itself.
        curve: give nll at K = 1, 10, 100, ... too, from the same draws, so that its bias can be
            seen.
        estimator: of nll. "importance" weighs draws from q(z|x); "ais" anneals from there to p(x,
            z) by Hamiltonian transitions: slower by orders of magnitude, and tighter where q is
            poor.
        chains: of annealing, for each example.
        temperatures: of annealing: the densities on the way; with more of them nll is tighter.
        examples: measure only the first so many of the split, where all would take too long.
        precision: "bf16-mixed" works networks out in bfloat16, and log-densities as ever: faster on
            processors that have it, and another nll by what rounding a network's output to 8 bits
            does; "estimator" says so.
        on_progress: called with (work done, work in all).

    Returns:
        Estimates with standard errors over the examples; units in
        :class:`~lowerbound.evaluation.result.Evaluation`.

    Raises:
        ValueError: an unknown split, estimator or precision, samples, batch size or examples below
            1, weights that are not finite (how many, and of which examples), a model that the
            estimator does not allow, or data that do not fit the model.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits", binarize="threshold")
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((4,)),
        ...     posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (4,)),
        ...     likelihood=lb.likelihoods.Bernoulli((4,), digits.event_shape),
        ... )
        >>> result = lb.evaluate(model, digits, samples=10)
        >>> result.nll.n, result.nll.unit, result.nll.value > 0
        (180, 'nats', True)
    """
    for name, word, words in (
        ("estimator", estimator, Estimator),
        ("precision", precision, Networks),
    ):
        if word not in get_args(words):
            raise ValueError(unknown(name, str(word), get_args(words)))
    for name, value in (("batch_size", batch_size), ("samples", samples), ("examples", examples)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is {value}: it must be a whole number, at least 1")
    anneals = estimator == "ais"
    if curve and anneals:
        raise ValueError(
            "the curve over K is one of importance-weighted draws: leave it out, or estimator='ais'"
        )
    rounded = precision == "bf16-mixed"
    if rounded and anneals:
        raise ValueError(
            "annealing follows gradients, for which bfloat16 is too coarse: precision 32-true, or "
            "importance"
        )
    model.check_data(data)
    if curve and not model.likelihood.is_density:
        raise ValueError(
            "a score is no log-density and has no log p(x), so there is no curve: leave it out"
        )
    sizes = _sizes(samples)
    # a statistic of the batch has another value in another batch, and a critic is not saved with
    # the model
    is_known = objective is None or not objective.batch_statistics
    asked = objective if is_known and not model.likelihood.is_density else None
    own = next(model.parameters())
    n = len(data[split]) if examples is None else min(examples, len(data[split]))
    context = data.context(split)[:n].to(own.device)
    world = join()
    on_progress = on_progress if world.is_first else None
    walked = None
    if anneals:  # first: what it refuses needs no other work
        walked = _annealed(
            model, data.examples(split, n), context, chains, temperatures, seed, on_progress, world
        )
    mine: dict[int, dict[str, Tensor]] = {}
    digest = hashlib.sha256()
    in_bfloat16 = torch.autocast(own.device.type, torch.bfloat16, enabled=rounded)
    with torch.no_grad(), retain_freed_memory(), in_bfloat16, evaluating(model):
        for number, x in enumerate(data.batches(split, batch_size, n)):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            digest.update(x.contiguous().numpy().data)
            if number % world.size == world.rank:
                with seeded(
                    part_seed(seed, number)
                ):  # the draws are the same, whoever works on the batch
                    batch = x.to(own.device, own.dtype)
                    mine[number] = world.to_cpu(
                        _of_batch(model, batch, context[rows], samples, sizes, asked, n)
                    )
            if on_progress and not anneals:
                on_progress(min(rows.stop, n), n)
        some = data.examples(split, min(n, AGGREGATED)).to(own.device, own.dtype)
        with seeded(part_seed(seed, math.ceil(n / batch_size))):
            known = information(model, some, context[:AGGREGATED], batch_size)
    found_by = {number: part for share in world.gather(mine) for number, part in share.items()}
    parts = [found_by[number] for number in sorted(found_by)]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    check_finite(values.pop("unfit"), samples)
    means = [values.pop(name) for name in list(values) if name.startswith("means/")]
    noise = [values.pop(name) for name in list(values) if name.startswith("noise/")]
    units, rates = list(map(active_units, means, noise)), values.pop("rate_per_dimension", None)
    levels = {name: Estimate.over(own) for name, own in values.items() if name.startswith("rate/")}
    states = values.pop("states").max()
    accuracy = values.pop("accuracy", None)
    exact = _sum_words(int(states)) if states else ""
    if walked is not None:
        values["nll"] = -walked.log_marginal.to(values["nll"])
    found: dict[str, Any] = {
        "sha256": _sha256(digest, context.mask),
        "observed": None
        if context.mask is None
        else Estimate.over(_dimensions(n, data, context), "entries of each example"),
        "kind": _kind(model),
        "accuracy": None if accuracy is None else Estimate.over(accuracy, "of the labels"),
        "conditional": model.is_conditional,
        "samples": int(states) or samples,
        "rate": Estimate.over(values["rate"]),
        "rate_per_dimension": None if rates is None else tuple(map(Estimate.over, rates.unbind(1))),
        "active_units": sum(units),
        "latent_dimensions": sum(own.shape[1] for own in means),
        "levels": tuple(
            Level(name.removeprefix("rate/"), rate, units[i], means[i].shape[1])
            for i, (name, rate) in enumerate(levels.items())
        ),
        **(
            {name: Estimate.over(v) for name, v in vars(known).items() if v is not None}
            if known
            else {}
        ),
    }
    if model.likelihood.is_density:
        points = _curve(values, sizes)
        found |= {
            **{name: Estimate.over(values[name]) for name in ("elbo", "nll", "distortion")},
            "bits_per_dim": _bits_per_dim(
                model, data, values["nll"], _dimensions(n, data, context)
            ),
            "estimator": (exact or _words(samples, walked, temperatures, found["conditional"]))
            + ("" if context.mask is None else OF_THE_OBSERVED)
            + (IN_BFLOAT16 if rounded else ""),
            "curve": points if curve else (),
        }
        if walked is None and "effective_samples" in values:
            found["effective_samples"] = Estimate.over(
                values["effective_samples"], f"of {samples:,} draws"
            )
        if walked is None and "heavy_tails" in values:
            found["heavy_tails"] = Estimate.over(values["heavy_tails"], "of the examples")
    else:
        cross_entropy = values["distortion"]
        objectives = (
            {"objective": values.get("objective", cross_entropy + values["rate"])}
            if is_known
            else {}
        )
        values = {"rate": values["rate"], "cross_entropy": cross_entropy, **objectives}
        found |= {name: Estimate.over(own) for name, own in values.items() if name != "rate"}
        found["estimator"] = "binary cross-entropy: a score, no log-likelihood" + (
            IN_BFLOAT16 if rounded else ""
        )
        points = ()
    found["warnings"] = tuple(_warnings(found, points, walked))
    return Evaluation(split=split, n=n, values=values, **found)


def _of_batch(
    model: Model,
    x: Tensor,
    context: Context,
    samples: int,
    sizes: list[int],
    asked: Objective | None,
    n: int,
) -> dict[str, Tensor]:
    """Everything about each example of a batch."""
    values = _values(evidence(model, x, context, samples), sizes)
    guess, y = model.classify(x, context), context.y
    if guess is not None and y is not None:
        values["accuracy"] = (guess == y).float()
    if asked is not None:
        terms = asked(model(x, context, asked.samples), Step(1.0, n))
        values["objective"] = terms.loss + (0.0 if terms.batch_loss is None else terms.batch_loss)
    return values


def _annealed(
    model: Model,
    x: Tensor,
    context: Context,
    chains: int,
    temperatures: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None,
    world: Processes,
) -> Annealed:
    """Annealing of all examples, of which each process takes a share; its chains follow from the
    seed and its number.
    """
    first, last = (len(x) * (world.rank + i) // world.size for i in (0, 1))
    rows = slice(first, last)
    share: dict[str, Tensor] = {}
    if first < last:
        seed = part_seed(seed, world.rank)
        found = annealed(
            model, x[rows], context[rows], chains, temperatures, seed=seed, on_progress=on_progress
        )
        share = world.to_cpu({"log_w": found.log_w, "acceptance": found.acceptance})
    shares = [own for own in world.gather(share) if own]
    return Annealed(
        torch.cat([own["log_w"] for own in shares], 1),
        torch.cat([own["acceptance"] for own in shares]),
    )


def _sizes(samples: int) -> list[int]:
    """1, 10, 100, ... and K, without a power so near K that the step between them would be all
    noise.
    """
    return [power for i in range(len(str(samples))) if (power := 10**i) * 3 <= samples] + [samples]


def _values(part: Evidence, sizes: list[int]) -> dict[str, Tensor]:
    """Everything about each example that the evidence tells, each (B,), and its posterior means."""
    values = {
        "elbo": -part.distortion - part.rate,
        "nll": -part.log_marginal,
        "rate": part.rate,
        "distortion": part.distortion,
        **{f"means/{level}": own for level, own in enumerate(part.means, 1)},
        **{f"noise/{level}": own for level, own in enumerate(part.noise, 1)},
        **{f"rate/{name}": own for name, own in part.rates.items() if len(part.rates) > 1},
        **(
            {}
            if part.rate_per_dimension is None
            else {"rate_per_dimension": part.rate_per_dimension}
        ),
        "unfit": (~torch.isfinite(part.log_terms)).sum(0),
        "states": torch.full_like(part.rate, len(part.log_terms) if part.is_exact else 0),
    }
    if part.is_exact:
        return values
    draws = len(part.log_terms)
    log_w = part.log_terms.cpu().double() + torch.tensor(float(draws)).log()
    values |= {f"nll, K = {size}": -bound(log_w, size) for size in sizes}
    values["effective_samples"] = effective_samples(log_w)
    if draws >= MIN_DRAWS_TO_WARN:
        values["heavy_tails"] = (pareto_k(log_w) > TRUSTED).float()
    return values


def _curve(values: dict[str, Tensor], sizes: list[int]) -> tuple[Point, ...]:
    """The points of the curve, whose values are taken out of ``values``."""
    points: list[Point] = []
    before = None
    for size in sizes:
        nll = values.pop(f"nll, K = {size}", None)
        if nll is None:
            return ()
        if before is None:
            points.append(Point(size, Estimate.over(nll)))
        else:
            last, fall = points[-1], Estimate.over(before - nll)
            factor = size / last.samples
            # of the first fall nothing is known but the rate that well-behaved weights have, which
            # stands in for a second
            earlier = (
                (math.inf, 10.0)
                if last.fall is None
                else (last.fall.value, last.samples / points[-2].samples)
            )
            rest = remaining_bias((earlier[0], fall.value), (earlier[1], factor))
            points.append(Point(size, Estimate.over(nll), fall, rest))
        before = nll
    return tuple(points)


def _kind(model: Model) -> Kind:
    if not model.likelihood.is_density:
        return "score"
    return "probability" if model.likelihood.support.is_discrete else "density"


def _dimensions(n: int, data: Dataset, context: Context) -> Tensor:
    """How many entries of each of n examples are observed, (n,)."""
    if context.mask is None:
        return torch.full((n,), float(numel(data.event_shape)))
    return context.mask.cpu().float().expand(n, *data.event_shape).reshape(n, -1).sum(1)


def _sha256(digest: Any, mask: Tensor | None) -> str:
    """Of the examples, which have been added, and their mask."""
    if mask is not None:
        digest.update(mask.cpu().contiguous().numpy().tobytes())
    return str(digest.hexdigest())


def _bits_per_dim(model: Model, data: Dataset, nll: Tensor, dimensions: Tensor) -> Estimate | None:
    if model.likelihood.support.is_discrete:
        return Estimate.ratio(nll, dimensions).bits_per_dim(1)
    if data.log_levels_per_dim is None:
        return None
    return Estimate.ratio(
        nll.cpu() + dimensions * data.log_levels_per_dim, dimensions
    ).bits_per_dim(1)


def _sum_words(states: int) -> str:
    if states == 1:  # q is a point (vector quantisation), and p may give other values a share too
        return "log p(x, z) at the one z that q(z|x) gives, whatever K: nll is at least -log p(x)"
    return f"exact: the sum over all {states:,} values of z, whatever K"


def _words(samples: int, walked: Annealed | None, temperatures: int, conditional: bool) -> str:
    evidence = "-log p(x|y), conditional" if conditional else "-log p(x)"
    if walked is None:
        return f"importance-weighted, K = {samples:,}: in expectation nll is at least {evidence}"
    return (
        f"annealed importance sampling, {len(walked.log_w):,} chains, temperatures: "
        f"{temperatures:,}; in expectation nll is at least {evidence}"
    )


def _amount(nats: float) -> str:
    return (
        f"about {nats:.2g} nats or more"
        if math.isfinite(nats)
        else "an amount of which no end is in sight"
    )


def _warnings(
    found: Mapping[str, Any], curve: tuple[Point, ...], walked: Annealed | None
) -> list[str]:
    """What a person who reads the numbers has to know."""
    told = []
    heavy: Estimate | None = found.get("heavy_tails")
    if heavy is not None and heavy.value > HEAVY:
        told.append(
            f"the importance weights of {heavy.value:.0%} of the examples have a Pareto k above "
            f"{TRUSTED}: their log p(x) rests on a few draws, and nll falls more slowly with K "
            "than 1/K; take more samples, or estimator ais"
        )
    if walked is None and len(curve) > 1:
        before, last = curve[-2:]
        fall, rest = last.fall, last.remaining_bias
        if fall and rest and rest > last.nll.stderr and fall.value > 2 * fall.stderr:
            told.append(
                f"nll still fell by {fall.short} nats from K = {before.samples:,} to "
                f"{last.samples:,}: it is too large by {_amount(rest)}, which is beyond its "
                "standard error; take more samples, or estimator ais"
            )
    if walked is not None:
        told += doubts(walked.acceptance)
    rate: Estimate = found["rate"]
    if is_collapsed(rate.value):
        told.append(
            f"posterior collapse: {found['active_units']} of {found['latent_dimensions']} latent "
            f"dimensions are active and the rate is {rate.short} nats, so z tells little of x; "
            f"{REMEDIES}"
        )
    elif empty := collapsed_levels(
        {f"rate/{level.name}": level.rate.value for level in found["levels"]}
    ):
        told.append(
            f"posterior collapse of {len(empty)} of {len(found['levels'])} latents: the rate of "
            f"{', '.join(empty)} is below {COLLAPSED} nats, so it tells nothing that the others do "
            f"not; {REMEDIES}"
        )
    return told
