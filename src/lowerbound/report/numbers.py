"""The numbers of the report: rows of its tables, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lowerbound.model import Model

NAMES = {
    "accuracy": "accuracy of the guessed labels",
    "nll": "−log p(x)",
    "elbo": "ELBO, the evidence lower bound",
    "bits_per_dim": "bits per dimension",
    "rate": "rate, KL(q(z|x) ‖ p(z))",
    "distortion": "distortion, −E[log p(x|z)]",
    "cross_entropy": "binary cross-entropy (no likelihood)",
    "objective": "objective (no bound)",
    "mutual_information": "mutual information I(x; z), at least",
    "mutual_information_upper": "mutual information I(x; z), at most",
    "marginal_kl_lower": "KL(q(z) ‖ p(z)), at least",
    "marginal_kl": "KL(q(z) ‖ p(z)), at most",
    "observed": "observed entries, of which the numbers are",
    "effective_samples": "effective importance samples",
    "heavy_tails": "weights with Pareto k above 0.7",
}
"""What quantities of evaluation.json are called in the table, in its order."""

LARGE = {
    "nll": "−log p(x), nats",
    "bits_per_dim": "bits per dimension",
    "objective": "objective, nats",
}
"""What those are called that are shown large."""


def rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, value, standard error, unit of everything that exists for the model."""
    return [
        (
            _of_condition(words, evaluation),
            f"{estimate['value']:.2f}",
            "–" if estimate["stderr"] is None else f"± {estimate['stderr']:.2f}",
            estimate["unit"],
        )
        for key, words in NAMES.items()
        if (estimate := evaluation.get(key)) is not None and estimate["value"] is not None
    ]


def headline(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that are shown large: what, and value with standard error."""
    large = []
    for key, words in LARGE.items():
        estimate = evaluation.get(key)
        if estimate is not None and estimate["value"] is not None:
            error = "" if estimate["stderr"] is None else f" ± {estimate['stderr']:.2f}"
            large.append((_of_condition(words, evaluation), f"{estimate['value']:.2f}{error}"))
    return large


def levels(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, rate and active units of each of several latents."""
    return [
        (
            f"z_{level['name']}" if level["name"].isdigit() else level["name"],
            f"{level['rate']['value']:.2f}",
            f"{level['active_units']} of {level['latent_dimensions']}",
        )
        for level in evaluation.get("levels", [])
    ]


def cost(
    config: Mapping[str, Any], records: Sequence[Mapping[str, Any]], model: Model
) -> list[tuple[str, str]]:
    """What training took: what, and how much."""
    seconds = sum(record["seconds"] for record in records)
    rate = sorted(record["examples_per_second"] for record in records)
    return [
        ("epochs", f"{len(records)}"),
        ("training time", f"{seconds:,.1f} s"),
        ("examples per second", f"{rate[len(rate) // 2]:,.0f}" if rate else "–"),
        ("parameters", f"{sum(p.numel() for p in model.parameters()):,}"),
        ("device", str(config.get("device", "–"))),
        ("precision", str(config.get("precision", "–"))),
    ]


def _of_condition(words: str, evaluation: Mapping[str, Any]) -> str:
    """The name of a quantity, of a model that is conditioned on y where it is."""
    return words.replace("p(x)", "p(x|y)") if evaluation.get("conditional") else words
