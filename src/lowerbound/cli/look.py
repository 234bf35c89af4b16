"""Looking at a trained model: report, traverse, interpolate, manifold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lowerbound.config.settings import SettingsParser
from lowerbound.evaluation import ACTIVE
from lowerbound.evaluation.evaluate import evaluate
from lowerbound.explore import interpolate as interpolate_between
from lowerbound.explore import manifold as manifold_of
from lowerbound.explore import rates
from lowerbound.explore import traverse as traverse_along
from lowerbound.model import Model
from lowerbound.plots import is_picture, save_grid
from lowerbound.report.page import write_report
from lowerbound.runs.opened import add_label, known, open_run, own_data, run_parser
from lowerbound.runs.run import Run

MEASURED = 2000  # examples by whose rate the dimensions are ordered
MOST = 16  # dimensions that are traversed unless they are named


def report(argv: Sequence[str]) -> None:
    """Write RUN/report.html."""
    parser = run_parser(
        "report",
        "RUN [options]",
        "Write RUN/report.html: one file that opens from disk, with curves, numbers and pictures "
        "of the run. The evaluation is that of RUN/evaluation.json, or is made where there is "
        "none.",
    )
    given = parser.read(argv)
    run, model = open_run(given)
    data = own_data(run)
    with run.locked():
        if not run.evaluation_file.is_file():
            run.write_evaluation(evaluate(model, data).as_json())
        print(write_report(run, model, data, run.evaluation()))


def traverse(argv: Sequence[str]) -> None:
    """Write a picture with a row for each latent dimension that moves."""
    parser = run_parser(
        "traverse",
        "RUN --out FILE.png",
        "A picture with a row for each latent dimension: it moves from -3 to +3 prior standard "
        "deviations, the others stay at the code of a held-out example. By default the active "
        "dimensions, those of highest rate first.",
    )
    parser.add_argument("--dimensions", type=list[int], help="which dimensions, as in [0,3,5]")
    parser.add_argument(
        "--example", type=int, default=0, help="which held-out example the others stay at"
    )
    parser.add_argument("--steps", type=int, default=15, help="pictures a row")
    _add_out(parser)
    given = parser.read(argv)
    run, model = open_run(given)
    path = _png(given, model)
    data = own_data(run)
    x, context = data.examples("test", MEASURED), data.context("test")[:MEASURED]
    if not 0 <= given["example"] < len(x):
        raise ValueError(
            f"there is no example {given['example']}; they are numbered 0 to {len(x) - 1}"
        )
    dimensions = given["dimensions"]
    if dimensions is None:
        by_rate, variance = rates(model, x, context=context)
        order = (variance if by_rate is None else by_rate).argsort(descending=True).tolist()
        dimensions = [d for d in order if variance[d] > ACTIVE][:MOST] or order[:1]
    one = slice(given["example"], given["example"] + 1)
    z = model.encode(x[one], context[one])[0]
    frames = traverse_along(model, z, dimensions, given["steps"], context[one])
    _write(
        run,
        path,
        frames.flatten(0, 1),
        frames.shape[1],
        f"rows: dimensions {', '.join(map(str, dimensions))}",
    )


def interpolate(argv: Sequence[str]) -> None:
    """Write a picture with a row for each pair of examples."""
    parser = run_parser(
        "interpolate",
        "RUN --out FILE.png",
        "A picture with a row for each pair of held-out examples: the mean of p(x|z) on the "
        "straight line between their codes.",
    )
    parser.add_argument("-n", type=int, default=8, help="pairs")
    parser.add_argument("--steps", type=int, default=10, help="pictures a row")
    _add_out(parser)
    given = parser.read(argv)
    run, model = open_run(given)
    path = _png(given, model)
    data = own_data(run)
    n, there = given["n"], len(data["test"])
    if not 1 <= n <= there // 2:
        raise ValueError(
            f"n is {n}: there are {there} held-out examples, so it can be from 1 to {there // 2}"
        )
    x, context = data.examples("test", 2 * n), data.context("test")
    ends = slice(n), slice(n, 2 * n)
    contexts = context[ends[0]], context[ends[1]]
    frames = interpolate_between(model, x[ends[0]], x[ends[1]], given["steps"], contexts)
    _write(run, path, frames.flatten(0, 1), given["steps"], f"rows: {n} pairs of held-out examples")


def manifold(argv: Sequence[str]) -> None:
    """Write a picture of p(x|z) over the latent plane."""
    parser = run_parser(
        "manifold",
        "RUN --out FILE.png",
        "A picture of the mean of p(x|z) over the plane of a model with two latent dimensions, cut "
        "at equal probability. Of a model that is conditioned on y: at the class that --label "
        "names, or at the y of the first held-out example.",
    )
    add_label(parser)
    parser.add_argument("--side", type=int, default=20, help="pictures to a side")
    _add_out(parser)
    given = parser.read(argv)
    run, model = open_run(given)
    path = _png(given, model)
    context = known(run, model, given["label"])
    if model.condition is not None and given["label"] is None:
        context = own_data(run).context("test")[:1]
    _write(
        run,
        path,
        manifold_of(model, given["side"], context),
        given["side"],
        "z[0] to the right, z[1] upwards",
    )


def _add_out(parser: SettingsParser) -> None:
    parser.add_argument("--out", type=str, help="the .png file to write")


def _png(given: Mapping[str, Any], model: Model) -> Path:
    """The file to write, checked before any work is done."""
    if given["out"] is None:
        raise ValueError("say which file to write: --out FILE.png")
    path = Path(given["out"]).expanduser()
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
    print(f"{path}: {what}")
