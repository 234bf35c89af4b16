"""The report: one HTML file about a run that opens from disk, without a network or a server.

Every picture is embedded; the sliders choose among frames that were rendered beforehand. All text
from outside (names, labels, settings) is escaped by the template engine.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from lowerbound import plots
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import ACTIVE
from lowerbound.explore import interpolate, manifold, rates, traverse
from lowerbound.model import Model
from lowerbound.report.samples import samples_shown
from lowerbound.runs.run import Run
from lowerbound.utils.files import write_text
from lowerbound.utils.seeding import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 32  # originals shown beside their reconstructions; there are twice as many samples
CODES = 2000  # codes drawn in the plane, and examples that the rates are measured on
DIMENSIONS = 12  # traversals at the most: the active dimensions of highest rate
COLUMNS = 8  # samples a row
STEPS = 15  # frames of a traversal


@dataclass(frozen=True)
class Traversal:
    """The frames of one latent dimension, side by side in one picture, for a slider to choose
    from.
    """

    dimension: int
    rate: str
    source: str


def write_report(run: Run, model: Model, data: Dataset, evaluation: Mapping[str, Any]) -> Path:
    """Write RUN/report.html.

    Args:
        run: the run folder; its configuration and metrics are shown.
        model: its model.
        data: its data; the test split is shown.
        evaluation: the content of evaluation.json.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    split = "test" if "test" in data.splits else next(iter(data.splits))
    x, y, context = data.examples(split, CODES), data[split].y, data.context(split)[:CODES]
    # codes are coloured by one label, or one amount, and not by several at once
    y = None if y is None or y[:1].numel() != 1 else y[:CODES].flatten()
    z = model.encode(x, context).cpu().reshape(len(x), -1)
    by_rate, variance = rates(model, x, context=context)
    active = (variance > ACTIVE).cpu()
    strength = (by_rate if by_rate is not None else variance).cpu()
    chosen = [int(i) for i in strength.argsort(descending=True) if active[i]][:DIMENSIONS] or [
        int(strength.argmax())
    ]
    config, records = run.config(), run.metrics()
    as_pictures = plots.is_picture(data.event_shape)
    show = _Pictures(data.range) if as_pictures else _Lines()
    paths = traverse(model, model.encode(x[:1], context[:1])[0], chosen, STEPS, context[:1]).cpu()
    count = min(6, len(x) // 2)
    ends = slice(count), slice(count, 2 * count)
    contexts = context[ends[0]], context[ends[1]]
    between = interpolate(model, x[ends[0]], x[ends[1]], contexts=contexts).cpu() if count else None
    samples, words = samples_shown(model, data, split, 2 * EXAMPLES // COLUMNS, COLUMNS)

    template = files(__package__).joinpath("report.html").read_text("utf-8")
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(
        title=Path(data.name or "data from memory").stem,
        run=str(run.path),
        data=str(data),
        source=data.source,
        licence=data.licence,
        split=split,
        parts=_parts(model),
        config=yaml.safe_dump(
            config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        ),
        headline=_headline(evaluation),
        evaluation=_rows(evaluation),
        estimator=evaluation["estimator"],
        warnings=evaluation.get("warnings", []),
        evidence=_figure(plots.evidence(points))
        if len(points := evaluation.get("curve", [])) > 1
        else None,
        active=f"{int(active.sum())} of {len(active)}",
        levels=[
            (
                f"z_{level['name']}" if level["name"].isdigit() else level["name"],
                f"{level['rate']['value']:.2f}",
                f"{level['active_units']} of {level['latent_dimensions']}",
            )
            for level in evaluation.get("levels", [])
        ],
        cost=_cost(config, records, model),
        curves=_figure(plots.curves(records)) if records else None,
        reconstructions=show.pairs(
            x[:EXAMPLES], model.reconstruct(x[:EXAMPLES], context[:EXAMPLES]).cpu()
        ),
        samples=show.samples(samples, COLUMNS),
        samples_are=words[0].upper() + words[1:],
        as_pictures=as_pictures,
        traversals=[
            Traversal(d, f"{strength[d]:.2f}", show.strip(path))
            for d, path in zip(chosen, paths, strict=True)
        ]
        if as_pictures
        else [],
        traversal_lines=None
        if as_pictures
        else show.paths([(f"z[{d}]", p) for d, p in zip(chosen, paths, strict=True)]),
        steps=paths.shape[1],
        interpolations=None
        if between is None
        else show.paths([(f"pair {i + 1}", p) for i, p in enumerate(between)]),
        manifold=show.samples(manifold(model, 16, context[:1]).cpu(), 16)
        if z.shape[1] == 2 and as_pictures and model.categories is None
        else None,
        codes=_codes(z, y, data.classes),
        rates=_figure(
            plots.rate_bars(
                strength, active, "nats" if by_rate is not None else "variance of the mean"
            )
        ),
        rates_are_known=by_rate is not None,
    )
    return write_text(run.report_file, page)


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _figure(figure: Figure) -> str:
    return _uri(plots.rendered(figure, "svg"), "svg+xml")


@dataclass(frozen=True)
class _Pictures:
    """How pictures are shown."""

    limits: tuple[float, float]

    def samples(self, x: Tensor, columns: int = 8) -> str:
        return _uri(plots.png(x, self.limits, columns), "png")

    def pairs(self, x: Tensor, reconstructions: Tensor) -> str:
        columns = min(8, len(x))
        return self.samples(plots.pairs(x, reconstructions, columns), columns)

    def strip(self, path: Tensor) -> str:
        return _uri(plots.png(path, self.limits, 1), "png")

    def paths(self, groups: Sequence[tuple[str, Tensor]]) -> str:
        return self.samples(torch.cat([path for _, path in groups]), len(groups[0][1]))


class _Lines:
    """How events that are no pictures are shown."""

    def samples(self, x: Tensor, columns: int = 8) -> str:
        return _figure(plots.lines([("sample", x)]))

    def pairs(self, x: Tensor, reconstructions: Tensor) -> str:
        return _figure(plots.lines([("x", x), ("reconstruction", reconstructions)]))

    def strip(self, path: Tensor) -> str:
        return _figure(plots.fans([("", path)]))

    def paths(self, groups: Sequence[tuple[str, Tensor]]) -> str:
        return _figure(plots.fans(groups))


def _parts(model: Model) -> list[tuple[str, str]]:
    """The slot of each part, and the part."""
    return [
        (slot if part.condition is None else f"{slot}, given y", type(part).__name__)
        for slot, part in model.parts.items()
    ]


def _codes(z: Tensor, y: Tensor | None, names: Sequence[str] | None) -> str | None:
    """The codes in the plane: themselves where Z = 2, else their two principal components."""
    if z.shape[1] == 2:
        return _figure(plots.codes(z, y, ("z[0]", "z[1]"), names))
    if z.shape[1] < 2 or len(z) < 3:
        return None
    places, shares = principal_components(z)
    axes = tuple(
        f"principal component {i + 1} ({share:.0%} of the variance)"
        for i, share in enumerate(shares.tolist())
    )
    return _figure(plots.codes(places, y, (axes[0], axes[1]), names))


def principal_components(z: Tensor) -> tuple[Tensor, Tensor]:
    """The first two principal components of codes z (N, Z): the codes along them, (N, 2), and their
    shares of the variance, (2,).

    By a few powers of the covariance on random directions (Halko, Martinsson and Tropp 2011, arXiv
    0909.4061), which is exact where Z is small and quick where Z is in the thousands.

    Example:
        >>> z = torch.randn(50, 3) * torch.tensor([1.0, 9.0, 3.0])
        >>> places, shares = principal_components(z)
        >>> places.shape, bool(shares[0] > shares[1])
        (torch.Size([50, 2]), True)
    """
    centred = (z - z.mean(0)).double()
    with seeded(0):
        _, _, directions = torch.svd_lowrank(centred, q=min(12, *z.shape), niter=7)
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    places = centred @ (directions * largest.sign())[:, :2]  # of both signs, always the same one
    return places.float(), places.square().sum(0) / centred.square().sum()


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


def _rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, value, standard error, unit of everything that exists for the model."""
    conditional = evaluation.get("conditional", False)
    return [
        (
            words.replace("p(x)", "p(x|y)") if conditional else words,
            f"{own['value']:.2f}",
            "–" if own["stderr"] is None else f"± {own['stderr']:.2f}",
            own["unit"],
        )
        for key, words in NAMES.items()
        if (own := evaluation.get(key)) is not None and own["value"] is not None
    ]


def _headline(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that are shown large: what, and value with standard error."""
    large = []
    for key, words in (
        ("nll", "−log p(x), nats"),
        ("bits_per_dim", "bits per dimension"),
        ("objective", "objective, nats"),
    ):
        own = evaluation.get(key)
        if own is not None and own["value"] is not None:
            error = "" if own["stderr"] is None else f" ± {own['stderr']:.2f}"
            large.append(
                (
                    words.replace("p(x)", "p(x|y)") if evaluation.get("conditional") else words,
                    f"{own['value']:.2f}{error}",
                )
            )
    return large


def _cost(
    config: Mapping[str, Any], records: Sequence[Mapping[str, Any]], model: Model
) -> list[tuple[str, str]]:
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
