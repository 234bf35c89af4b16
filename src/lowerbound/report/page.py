"""The report: one HTML file about a run that opens from disk, without a network or a server.

Every picture is embedded; the sliders choose among frames that were rendered beforehand. All text
from outside (names, labels, settings) is escaped by the template engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from lowerbound import plots
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import ACTIVE
from lowerbound.explore import interpolate, manifold, rates, traverse
from lowerbound.model import Model
from lowerbound.report import numbers
from lowerbound.report.embedded import Lines, Pictures, embedded, plane
from lowerbound.report.samples import samples_shown
from lowerbound.roles import Context
from lowerbound.runs.run import Run
from lowerbound.utils.files import write_text

EXAMPLES = 32  # originals shown beside their reconstructions; there are twice as many samples
CODES = 2000  # codes drawn in the plane, and examples that the rates are measured on
DIMENSIONS = 12  # traversals at the most: the active dimensions of highest rate
COLUMNS = 8  # samples a row
STEPS = 15  # frames of a traversal
PAIRS = 6  # interpolations


@dataclass(frozen=True)
class Traversal:
    """The frames of one latent dimension, side by side in one picture, for a slider to choose
    from.
    """

    dimension: int
    rate: str
    source: str


@dataclass(frozen=True)
class Shown:
    """The held-out examples that the pictures are made of, and how events are shown.

    Args:
        split: the split that they are of.
        x: (n, *X).
        y: what their codes are coloured by, (n,), or None.
        context: of them.
        show: as pictures or as lines.
    """

    split: str
    x: Tensor
    y: Tensor | None
    context: Context
    show: Pictures | Lines

    @classmethod
    def of(cls, data: Dataset) -> Shown:
        """Of a data set: the first test examples, or those of its only split."""
        split = "test" if "test" in data.splits else next(iter(data.splits))
        y = data[split].y
        # codes are coloured by one label, or one amount, and not by several at once
        y = None if y is None or y[:1].numel() != 1 else y[:CODES].flatten()
        show = Pictures(data.range) if plots.is_picture(data.event_shape) else Lines()
        x, context = data.examples(split, CODES), data.context(split)[:CODES]
        return cls(split, x, y, context, show)


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
    from jinja2 import Environment, StrictUndefined

    shown = Shown.of(data)
    template = files(__package__).joinpath("report.html").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(
        **_of_run(run, model, data),
        **_of_evaluation(evaluation),
        **_of_latents(model, data, shown),
        **_of_pictures(model, data, shown),
        split=shown.split,
        as_pictures=isinstance(shown.show, Pictures),
    )
    return write_text(run.report_file, page)


def _of_run(run: Run, model: Model, data: Dataset) -> dict[str, Any]:
    """What was trained on what, how, and what it took."""
    config, records = run.config(), run.metrics()
    return {
        "title": Path(data.name or "data from memory").stem,
        "run": str(run.path),
        "data": str(data),
        "source": data.source,
        "licence": data.licence,
        "parts": _parts(model),
        "config": yaml.safe_dump(
            config, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        ),
        "cost": numbers.cost(config, records, model),
        "curves": embedded(plots.curves(records)) if records else None,
    }


def _of_evaluation(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured."""
    curve = evaluation.get("curve", [])
    return {
        "headline": numbers.headline(evaluation),
        "evaluation": numbers.rows(evaluation),
        "estimator": evaluation["estimator"],
        "warnings": evaluation.get("warnings", []),
        "evidence": embedded(plots.evidence(curve)) if len(curve) > 1 else None,
        "levels": numbers.levels(evaluation),
    }


def _of_latents(model: Model, data: Dataset, shown: Shown) -> dict[str, Any]:
    """What each dimension of z carries, and where the codes lie."""
    x, context, show = shown.x, shown.context, shown.show
    z = model.encode(x, context).cpu().reshape(len(x), -1)
    by_rate, variance = rates(model, x, context=context)
    active = (variance > ACTIVE).cpu()
    strength = (by_rate if by_rate is not None else variance).cpu()
    strongest = strength.argsort(descending=True)
    dimensions = [int(d) for d in strongest if active[d]][:DIMENSIONS] or [int(strength.argmax())]
    code = model.encode(x[:1], context[:1])[0]
    paths = traverse(model, code, dimensions, STEPS, context[:1]).cpu()
    numbered = list(zip(dimensions, paths, strict=True))
    is_picture = isinstance(show, Pictures)
    is_plane = z.shape[1] == 2 and is_picture and model.categories is None
    unit = "nats" if by_rate is not None else "variance of the mean"
    return {
        "active": f"{int(active.sum())} of {len(active)}",
        "rates": embedded(plots.rate_bars(strength, active, unit)),
        "rates_are_known": by_rate is not None,
        "traversals": [Traversal(d, f"{strength[d]:.2f}", show.strip(path)) for d, path in numbered]
        if is_picture
        else [],
        "traversal_lines": None
        if is_picture
        else show.paths([(f"z[{d}]", path) for d, path in numbered]),
        "steps": paths.shape[1],
        "manifold": show.samples(manifold(model, 16, context[:1]).cpu(), 16) if is_plane else None,
        "codes": plane(z, shown.y, data.classes),
    }


def _of_pictures(model: Model, data: Dataset, shown: Shown) -> dict[str, Any]:
    """Reconstructions, interpolations and samples."""
    x, context, show = shown.x, shown.context, shown.show
    count = min(PAIRS, len(x) // 2)
    from_, to = slice(count), slice(count, 2 * count)
    contexts = context[from_], context[to]
    between = interpolate(model, x[from_], x[to], contexts=contexts).cpu() if count else None
    samples, words = samples_shown(model, data, shown.split, 2 * EXAMPLES // COLUMNS, COLUMNS)
    reconstructed = model.reconstruct(x[:EXAMPLES], context[:EXAMPLES]).cpu()
    return {
        "reconstructions": show.pairs(x[:EXAMPLES], reconstructed),
        "interpolations": None
        if between is None
        else show.paths([(f"pair {i + 1}", path) for i, path in enumerate(between)]),
        "samples": show.samples(samples, COLUMNS),
        "samples_are": words[0].upper() + words[1:],
    }


def _parts(model: Model) -> list[tuple[str, str]]:
    """The slot of each part, and the part."""
    return [
        (slot if part.condition is None else f"{slot}, given y", type(part).__name__)
        for slot, part in model.parts.items()
    ]
