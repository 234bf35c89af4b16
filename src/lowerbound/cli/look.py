"""Looking at a trained model: report, traverse, interpolate, manifold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from lowerbound.config.options import Options
from lowerbound.evaluation import ACTIVE
from lowerbound.evaluation.evaluate import evaluate
from lowerbound.explore import interpolate as interpolate_between
from lowerbound.explore import manifold as manifold_of
from lowerbound.explore import rates
from lowerbound.explore import traverse as traverse_along
from lowerbound.model import Model
from lowerbound.plots import is_picture, save_grid
from lowerbound.report.page import write_report
from lowerbound.runs.opened import add_label, known, open_run, own_data, run_options
from lowerbound.runs.run import Run
from lowerbound.utils.messages import printable

MEASURED = 2000  # examples by whose rate the dimensions are ordered
MOST = 16  # dimensions that are traversed unless they are named


def report(argv: Sequence[str]) -> None:
    """Write RUN/report.html."""
    options = run_options(
        "report",
        "RUN [options]",
        "Write RUN/report.html: one file that opens from disk, with curves, numbers and pictures "
        "of the run. The evaluation is that of RUN/evaluation.json, or is made where there is "
        "none.",
    )
    arguments = options.read(argv)
    run, model = open_run(arguments)
    data = own_data(run)
    with run.locked():
        if not run.evaluation_file.is_file():
            run.write_evaluation(evaluate(model, data).as_json())
        print(printable(write_report(run, model, data, run.evaluation())))


def traverse(argv: Sequence[str]) -> None:
    """Write a picture with a row for each latent dimension that moves."""
    options = run_options(
        "traverse",
        "RUN --out FILE.png",
        "A picture with a row for each latent dimension: it moves from -3 to +3 prior standard "
        "deviations, the others stay at the code of a held-out example. By default the active "
        "dimensions, those of highest rate first.",
    )
    options.add("dimensions", list[int], "which dimensions, as in [0,3,5]")
    options.add("example", int, "which held-out example the others stay at", 0)
    options.add("steps", int, "pictures a row", 15)
    _add_out(options)
    arguments = options.read(argv)
    run, model = open_run(arguments)
    path = _png(arguments["out"], model)
    data = own_data(run)
    x, context = data.examples("test", MEASURED), data.context("test")[:MEASURED]
    if not 0 <= arguments["example"] < len(x):
        raise ValueError(
            f"there is no example {arguments['example']}; they are numbered 0 to {len(x) - 1}"
        )
    dimensions = arguments["dimensions"]
    if dimensions is None:
        by_rate, variance = rates(model, x, context=context)
        order = (variance if by_rate is None else by_rate).argsort(descending=True).tolist()
        dimensions = [d for d in order if variance[d] > ACTIVE][:MOST] or order[:1]
    one = slice(arguments["example"], arguments["example"] + 1)
    z = model.encode(x[one], context[one])[0]
    frames = traverse_along(model, z, dimensions, arguments["steps"], context[one])
    _write(
        run,
        path,
        frames.flatten(0, 1),
        frames.shape[1],
        f"rows: dimensions {', '.join(map(str, dimensions))}",
    )


def interpolate(argv: Sequence[str]) -> None:
    """Write a picture with a row for each pair of examples."""
    options = run_options(
        "interpolate",
        "RUN --out FILE.png",
        "A picture with a row for each pair of held-out examples: the mean of p(x|z) on the "
        "straight line between their codes.",
    )
    options.add("n", int, "pairs", 8)
    options.add("steps", int, "pictures a row", 10)
    _add_out(options)
    arguments = options.read(argv)
    run, model = open_run(arguments)
    path = _png(arguments["out"], model)
    data = own_data(run)
    n, there = arguments["n"], len(data["test"])
    if not 1 <= n <= there // 2:
        raise ValueError(
            f"n is {n}: there are {there} held-out examples, so it can be from 1 to {there // 2}"
        )
    x, context = data.examples("test", 2 * n), data.context("test")
    ends = slice(n), slice(n, 2 * n)
    contexts = context[ends[0]], context[ends[1]]
    frames = interpolate_between(model, x[ends[0]], x[ends[1]], arguments["steps"], contexts)
    _write(
        run, path, frames.flatten(0, 1), arguments["steps"], f"rows: {n} pairs of held-out examples"
    )


def manifold(argv: Sequence[str]) -> None:
    """Write a picture of p(x|z) over the latent plane."""
    options = run_options(
        "manifold",
        "RUN --out FILE.png",
        "A picture of the mean of p(x|z) over the plane of a model with two latent dimensions, cut "
        "at equal probability. Of a model that is conditioned on y: at the class that --label "
        "names, or at the y of the first held-out example.",
    )
    add_label(options)
    options.add("side", int, "pictures to a side", 20)
    _add_out(options)
    arguments = options.read(argv)
    run, model = open_run(arguments)
    path = _png(arguments["out"], model)
    context = known(run, model, arguments["label"])
    if model.condition is not None and arguments["label"] is None:
        context = own_data(run).context("test")[:1]
    _write(
        run,
        path,
        manifold_of(model, arguments["side"], context),
        arguments["side"],
        "z[0] to the right, z[1] upwards",
    )


def _add_out(options: Options) -> None:
    options.add("out", str, "the .png file to write")


def _png(out: str | None, model: Model) -> Path:
    """The file to write, checked before any work is done."""
    if out is None:
        raise ValueError("say which file to write: --out FILE.png")
    path = Path(out).expanduser()
    if path.suffix != ".png":
        raise ValueError(f"--out {path}: the file's name must end in .png")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    if not is_picture(model.x_shape):
        raise ValueError(
            f"examples of shape {model.x_shape} are no pictures; look at them in the report"
        )
    return path


def _write(run: Run, path: Path, frames: torch.Tensor, columns: int, what: str) -> None:
    low, high = run.config()["data"].get("range", [0.0, 1.0])
    save_grid(path, frames.cpu(), (low, high), columns)
    print(f"{printable(path)}: {what}")
