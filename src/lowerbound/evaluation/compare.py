"""Runs side by side, and their differences example by example.

Two models measured on the same examples find the same ones hard, so the difference of their means
is known far better than either mean: with d_i = a_i - b_i for each example, mean(d) has the
standard error sd(d) / sqrt(n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
            "evaluations": {name: own.as_json() for name, own in self.evaluations.items()},
            "differences": {
                name: {quantity: own.as_json() for quantity, own in found.items()}
                for name, found in self.differences.items()
            },
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        shown = [
            q
            for q in QUANTITIES
            if any(getattr(own, q) is not None for own in self.evaluations.values())
        ]
        rows = [["", *shown, "active units", "n"]]
        for name, own in self.evaluations.items():
            found = [getattr(own, quantity) for quantity in shown]
            rows.append(
                [name, *("–" if e is None else e.short for e in found), _active(own), f"{own.n:,}"]
            )
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
        told = [f"note: {note}" for note in self.notes]
        told += [
            f"warning: {name}: {words}"
            for name, own in self.evaluations.items()
            for words in own.warnings
        ]
        return "\n".join([*table, *lines, *told])


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
        >>> found = compare(
        ...     {f"{n} latents": lb.evaluate(model(n), digits, samples=10) for n in (2, 8)}
        ... )
        >>> found.differences["8 latents"]["nll"].n
        180
    """
    if not isinstance(evaluations, Mapping):
        raise TypeError("name the evaluations: compare({'a': evaluation, 'b': another})")
    if len(evaluations) < 2:
        raise ValueError(f"{len(evaluations)} evaluation: at least two are needed to compare")
    if without := [name for name, own in evaluations.items() if not own.values]:
        raise ValueError(
            f"the evaluation {without[0]} has no values of single examples: make it in this process"
        )
    (first, base), *others = evaluations.items()
    differences: dict[str, dict[str, Estimate]] = {}
    notes = []
    for name, own in others:
        differences[name] = {}
        if own.sha256 != base.sha256:
            notes.append(
                f"{name} was measured on other examples than {first}, so their means cannot be "
                "paired"
            )
            continue
        if own.kind != base.kind:
            notes.append(
                f"the likelihood of {name} is a {own.kind} and that of {first} a {base.kind}, so "
                "only their rates compare"
            )
        elif own.estimator != base.estimator:
            notes.append(
                f"{name} was measured otherwise than {first}: {own.estimator}; {first}: "
                f"{base.estimator}"
            )
        for quantity in (
            own.values.keys() & base.values.keys() & set(QUANTITIES) - {"objective"}
        ):  # those may differ
            if own.kind == base.kind or quantity == "rate":
                paired = own.values[quantity].cpu().double() - base.values[quantity].cpu().double()
                differences[name][quantity] = Estimate.over(paired)
    return Comparison(evaluations, differences, notes)


def _active(own: Evaluation) -> str:
    return f"{own.active_units} of {own.latent_dimensions}"


def _marked(difference: Estimate) -> str:
    return difference.short + ("*" if abs(difference.value) > CLEAR * difference.stderr else "")
