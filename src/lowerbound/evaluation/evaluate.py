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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lowerbound.checks import check_finite, check_squares
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.active_units import active_units
from lowerbound.evaluation.annealed import Annealed, annealed
from lowerbound.evaluation.base_measure import base_measure
from lowerbound.evaluation.curve import curve_points
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.far import is_far, usual, words
from lowerbound.evaluation.information import Information, information
from lowerbound.evaluation.measurements import Measurements, measure
from lowerbound.evaluation.options import Estimator, Networks, Options
from lowerbound.evaluation.remarks import estimator_in_words, warnings_of
from lowerbound.evaluation.result import Evaluation, Kind, Level
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.processes import Processes, join
from lowerbound.roles import Context
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.modes import by_default, check_has_values, evaluating
from lowerbound.utils.seeding import part_seed, seeded

# L_100 is within a nat of L_5000 on MNIST-sized models and takes seconds; papers use 5000
SAMPLES = 100
# of annealing: the logarithm of their mean is biased by half the variance of one weight over 16
CHAINS = 16
TEMPERATURES = 200  # narrow sandwiches on MNIST-sized models: benchmarks/evidence.py
# examples that estimate the aggregate posterior, at a cost that is quadratic in them
AGGREGATED = 2000


@by_default()
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
    options = Options(
        split=split,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        curve=curve,
        estimator=estimator,
        chains=chains,
        temperatures=temperatures,
        examples=examples,
        precision=precision,
    )
    check_has_values(model)
    data = model.matched(data)
    if curve and not model.likelihood.is_density:
        raise ValueError(
            "a score is no log-density and has no log p(x), so there is no curve: leave it out"
        )
    n = len(data[split]) if examples is None else min(examples, len(data[split]))
    weights = next(model.parameters())
    context = data.context(split)[:n].to(weights.device)
    world = join()
    on_progress = on_progress if world.is_first else None
    annealing = None
    if options.anneals:  # first: what it refuses needs no other work
        x = data.examples(split, n)
        # the chains of all others are what they are without examples that are far
        x = usual(model, x, is_far(model, x, context))
        annealing = _annealed(model, x, context, options, on_progress, world)

    share: dict[int, Measurements] = {}  # of the batches that this process works on, by number
    digest = hashlib.sha256()
    in_bfloat16 = torch.autocast(weights.device.type, torch.bfloat16, enabled=options.rounds)
    with torch.no_grad(), retain_freed_memory(), in_bfloat16, evaluating(model):
        for number, x in enumerate(data.batches(split, batch_size, n)):
            rows = slice(number * batch_size, (number + 1) * batch_size)
            digest.update(x.contiguous().numpy().data)
            check_squares(x, rows.start)
            if number % world.size == world.rank:
                batch = x.to(weights.device)
                # the draws are the same, whichever process works on the batch
                with seeded(part_seed(seed, number)):
                    share[number] = measure(model, batch, context[rows], samples, objective, n)
            if on_progress and not options.anneals:
                on_progress(min(rows.stop, n), n)
    if context.mask is not None:
        digest.update(context.mask.cpu().contiguous().numpy().tobytes())

    measured = _of_all(share, world)
    check_finite(measured.unfit, samples)
    seed_of_aggregate = part_seed(seed, math.ceil(n / batch_size))
    with torch.no_grad(), in_bfloat16, evaluating(model), seeded(seed_of_aggregate):
        aggregate = _aggregate(model, data, options, measured, context, n)
    return _evaluation(model, data, options, measured, aggregate, annealing, digest.hexdigest())


def _aggregate(
    model: Model,
    data: Dataset,
    options: Options,
    measured: Measurements,
    context: Context,
    n: int,
) -> Information | None:
    """What the aggregate posterior of the first examples says; of those that have the encoder's q,
    since one that is far from all others' codes would be most of every mean.
    """
    weights = next(model.parameters())
    x_dtype = torch.promote_types(data.dtype, weights.dtype)
    x = data.examples(options.split, min(n, AGGREGATED)).to(weights.device, x_dtype)
    context, is_usual = context[:AGGREGATED], measured.is_usual[:AGGREGATED].to(weights.device)
    if not bool(is_usual.all()):
        x, context = x[is_usual], context[is_usual]
    return information(model, x, context, options.batch_size)


def _annealed(
    model: Model,
    x: Tensor,
    context: Context,
    options: Options,
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
        annealing = annealed(
            model,
            x[rows],
            context[rows],
            options.chains,
            options.temperatures,
            seed=part_seed(options.seed, world.rank),
            on_progress=on_progress,
        )
        share = world.to_cpu({"log_w": annealing.log_w, "acceptance": annealing.acceptance})
    shares = [share for share in world.gather(share) if share]
    return Annealed(
        torch.cat([share["log_w"] for share in shares], 1),
        torch.cat([share["acceptance"] for share in shares]),
    )


def _of_all(share: dict[int, Measurements], world: Processes) -> Measurements:
    """Of the batches of all processes, in their order."""
    if world.size > 1:
        share = {number: batch.to_cpu() for number, batch in share.items()}
    by_number = {number: batch for each in world.gather(share) for number, batch in each.items()}
    return Measurements.joined([by_number[number] for number in sorted(by_number)])


def _evaluation(
    model: Model,
    data: Dataset,
    options: Options,
    measured: Measurements,
    aggregate: Information | None,
    annealing: Annealed | None,
    sha256: str,
) -> Evaluation:
    """What is said of the split, from what is known of its examples."""
    refined, lost = (
        each.nonzero().flatten().tolist() for each in (measured.is_refined, measured.is_lost)
    )
    is_density, dtype = model.likelihood.is_density, next(model.parameters()).dtype
    is_masked = data[options.split].mask is not None
    values = _values(measured, annealing, dtype) if is_density else _values_of_score(measured)
    estimates = {name: Estimate.over(each) for name, each in values.items()}
    # of annealed chains nothing is said by the importance weights
    of_weights = {} if options.anneals else values
    points = curve_points(measured.curve) if is_density and not options.anneals else ()
    levels = _levels(measured)
    evaluation = Evaluation(
        split=options.split,
        samples=measured.states or options.samples,
        n=len(measured.rate),
        sha256=sha256,
        kind=_kind(model),
        base_measure=base_measure(model.likelihood),
        estimator=estimator_in_words(model, options, measured.states, annealing, is_masked),
        conditional=model.is_conditional,
        accuracy=_estimate(measured.is_guessed, "of the labels"),
        elbo=estimates.get("elbo"),
        nll=estimates.get("nll"),
        bits_per_dim=_bits_per_dim(model, data, values["nll"], measured) if is_density else None,
        rate=estimates["rate"],
        rate_per_dimension=None
        if measured.rate_per_dimension is None
        else tuple(map(Estimate.over, measured.rate_per_dimension.unbind(1))),
        distortion=estimates.get("distortion"),
        cross_entropy=estimates.get("cross_entropy"),
        objective=estimates.get("objective"),
        effective_samples=_estimate(
            of_weights.get("effective_samples"), f"of {options.samples:,} draws"
        ),
        heavy_tails=_estimate(of_weights.get("heavy_tails"), "of the examples"),
        active_units=sum(level.active_units for level in levels),
        latent_dimensions=sum(level.latent_dimensions for level in levels),
        levels=levels if len(levels) > 1 else (),
        curve=points if options.curve else (),
        observed=Estimate.over(measured.entries, "entries of each example") if is_masked else None,
        far=(*refined, *lost),
        values=values,
        **_of_aggregate(aggregate),
    )
    remarks = words(refined, lost, evaluation.n) + _of_others(values, measured.is_usual)
    return replace(evaluation, warnings=(*remarks, *warnings_of(evaluation, points, annealing)))


def _of_others(values: Mapping[str, Tensor], is_usual: Tensor) -> list[str]:
    """What nll is without the examples that are far, which outweigh all others in a mean."""
    if bool(is_usual.all()) or "nll" not in values:
        return []
    others = Estimate.over(values["nll"][is_usual])
    return [
        f"nll of the other {others.n:,} examples is {others.short} nats; active units, mutual "
        "information and marginal KL are of these alone"
    ]


def _values(
    measured: Measurements, annealing: Annealed | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """By name, what is said of each example where the model, of a precision, has a log p(x)."""
    nll = measured.nll
    if annealing is not None:
        nll = -annealing.log_marginal.to(nll.device, dtype)
        # chains do not come to where p(x, z) of these lies
        nll = torch.where(measured.is_usual, nll, measured.nll)
    values = {
        "elbo": measured.elbo,
        "nll": nll,
        "rate": measured.rate,
        "distortion": measured.distortion,
    }
    if len(measured.rates) > 1:
        values |= {f"rate/{name}": rate for name, rate in measured.rates.items()}
    if measured.effective_samples is not None:
        values["effective_samples"] = measured.effective_samples
    if measured.heavy_tails is not None:
        values["heavy_tails"] = measured.heavy_tails
    return values


def _values_of_score(measured: Measurements) -> dict[str, Tensor]:
    """The same where the model's score of x is no log-density."""
    values = {"rate": measured.rate, "cross_entropy": measured.distortion}
    return values if measured.objective is None else values | {"objective": measured.objective}


def _levels(measured: Measurements) -> tuple[Level, ...]:
    """Each latent by itself."""
    latents = zip(measured.rates.items(), measured.means, measured.noise, strict=True)
    return tuple(
        Level(
            name,
            Estimate.over(rate),
            active_units(means[measured.is_usual], noise[measured.is_usual]),
            means.shape[1],
        )
        for (name, rate), means, noise in latents
    )


def _of_aggregate(aggregate: Information | None) -> dict[str, Any]:
    """What the aggregate posterior says, as far as it is known."""
    known = {} if aggregate is None else vars(aggregate)
    return {name: Estimate.over(values) for name, values in known.items() if values is not None}


def _estimate(values: Tensor | None, unit: str) -> Estimate | None:
    return None if values is None else Estimate.over(values, unit)


def _kind(model: Model) -> Kind:
    if not model.likelihood.is_density:
        return "score"
    return "probability" if model.likelihood.support.is_discrete else "density"


def _bits_per_dim(
    model: Model, data: Dataset, nll: Tensor, measured: Measurements
) -> Estimate | None:
    entries = measured.entries.cpu()
    if model.likelihood.support.is_discrete:
        return Estimate.ratio(nll, entries).bits_per_dim(1)
    if data.log_levels_per_dim is None:
        return None
    nats = nll.cpu() + entries * data.log_levels_per_dim
    return Estimate.ratio(nats, entries).bits_per_dim(1)
