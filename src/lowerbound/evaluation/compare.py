"""Runs side by side, and their differences example by example.

Two models measured on the same examples find the same ones hard, so the difference of their means
is known far better than either mean: with d_i = a_i - b_i for each example, mean(d) has the
standard error sd(d) / sqrt(n).

Only numbers of the same base measure on every column have a difference
(:mod:`~lowerbound.evaluation.base_measure`); rates have none, and always compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lowerbound.evaluation.base_measure import differing
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.result import Evaluation

QUANTITIES = ("nll", "elbo", "bits_per_dim", "rate", "distortion", "cross_entropy", "objective")
CLEAR = 2.0  # standard errors beyond which a difference is marked: by chance, one of twenty is


@dataclass(frozen=True)
class Comparison:
    """Evaluations of several models, and what each differs by from the first.

    Args:
        evaluations: by name.
        differences: for each but the first, by quantity: its mean difference from the first, paired
            by example.
        notes: in words, what could not be paired and why.
    """

    evaluations: Mapping[str, Evaluation]
    differences: Mapping[str, Mapping[str, Estimate]]
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Evaluations and differences, for a program to read."""
        return {
            "evaluations": {name: each.as_json() for name, each in self.evaluations.items()},
            "differences": {
                name: {
                    quantity: difference.as_json() for quantity, difference in by_quantity.items()
                }
                for name, by_quantity in self.differences.items()
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        shown = [
            q
            for q in QUANTITIES
            if any(getattr(each, q) is not None for each in self.evaluations.values())
        ]
        rows = [["", *shown, "active units", "n"]]
        for name, evaluation in self.evaluations.items():
            estimates = [getattr(evaluation, quantity) for quantity in shown]
            cells = ["–" if estimate is None else estimate.short for estimate in estimates]
            rows.append([name, *cells, _active(evaluation), f"{evaluation.n:,}"])
        first = next(iter(self.evaluations))
        lines = []
        if any(self.differences.values()):
            rows.append([f"less {first}, example by example:"])
            for name, differences in self.differences.items():
                if not differences:
                    continue
                rows.append(
                    [
                        name,
                        *(_marked(differences[q]) if q in differences else "–" for q in shown),
                        "",
                        "",
                    ]
                )
            lines = [f"* beyond {CLEAR:g} standard errors"]
        widths = [max(len(row[i]) for row in rows if len(row) > 1) for i in range(len(rows[0]))]
        table = [
            row[0]
            if len(row) == 1
            else "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        lines += [f"note: {note}" for note in self.notes]
        lines += [
            f"warning: {name}: {warning}"
            for name, evaluation in self.evaluations.items()
            for warning in evaluation.warnings
        ]
        return "\n".join([*table, *lines])


def compare(evaluations: Mapping[str, Evaluation]) -> Comparison:
    """Compare evaluations with the first of them.

    Args:
        evaluations: by name, at least two; made by :func:`lowerbound.evaluate` in this process,
            since files do not keep the values of single examples.

    Raises:
        ValueError: fewer than two, or evaluations without the values of single examples.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits", binarize="threshold")
        >>> def model(latent):
        ...     return lb.VAE(
        ...         prior=lb.priors.StandardNormal((latent,)),
        ...         posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (latent,)),
        ...         likelihood=lb.likelihoods.Bernoulli((latent,), digits.event_shape),
        ...     )
        >>> comparison = compare(
        ...     {f"{n} latents": lb.evaluate(model(n), digits, samples=10) for n in (2, 8)}
        ... )
        >>> comparison.differences["8 latents"]["nll"].n
        180
    """
    if not isinstance(evaluations, Mapping):
        raise TypeError("name the evaluations: compare({'a': evaluation, 'b': another})")
    if len(evaluations) < 2:
        raise ValueError(f"{len(evaluations)} evaluation: at least two are needed to compare")
    if without := [name for name, each in evaluations.items() if not each.values]:
        raise ValueError(
            f"the evaluation {without[0]} has no values of single examples: make it in this process"
        )
    (first, base), *others = evaluations.items()
    differences: dict[str, dict[str, Estimate]] = {}
    notes = []
    for name, other in others:
        differences[name] = {}
        if other.sha256 != base.sha256:
            notes.append(
                f"{name} was measured on other examples than {first}, so their means cannot be "
                "paired"
            )
            continue
        entries = differing(other.base_measure, base.base_measure)
        has_one_measure = entries == []
        if entries is None:
            notes.append(
                f"the likelihood of {name} is a {other.kind} and that of {first} a {base.kind}, so "
                "only their rates compare"
            )
        elif entries:
            notes.append(
                f"{name} and {first} are not of one base measure: of {_columns(entries)} one gives "
                "probabilities and the other a density, whose logarithms differ by a unit of "
                "measurement, so only their rates compare"
            )
        elif other.estimator != base.estimator:
            notes.append(
                f"{name} was measured otherwise than {first}: {other.estimator}; {first}: "
                f"{base.estimator}"
            )
        # what was minimised may differ
        both = other.values.keys() & base.values.keys() & set(QUANTITIES) - {"objective"}
        for quantity in both:
            if has_one_measure or quantity == "rate":
                values, others_values = base.values[quantity], other.values[quantity]
                paired = others_values.cpu().double() - values.cpu().double()
                differences[name][quantity] = Estimate.over(paired)
    return Comparison(evaluations, differences, notes)


def _columns(numbers: Sequence[int]) -> str:
    """Columns by their numbers, counted from 0, of many the first ten."""
    some = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"column {some}" if len(numbers) == 1 else f"{len(numbers)} columns ({some})"


def _active(evaluation: Evaluation) -> str:
    return f"{evaluation.active_units} of {evaluation.latent_dimensions}"


def _marked(difference: Estimate) -> str:
    return difference.short + ("*" if abs(difference.value) > CLEAR * difference.stderr else "")
