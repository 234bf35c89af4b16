"""What is done with a trained model: sample, reconstruct, encode, score."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.config.options import Options
from lowerbound.config.settings import REQUIRED
from lowerbound.data import NAMED
from lowerbound.data.dataset import Dataset
from lowerbound.data.names import Names
from lowerbound.data.options import Missing
from lowerbound.data.splitting import split_rows
from lowerbound.data.tables import cells_of, text
from lowerbound.evaluation import impute as fill_in
from lowerbound.evaluation.evaluate import SAMPLES
from lowerbound.evaluation.far import words
from lowerbound.evaluation.log_marginal import log_marginals
from lowerbound.model import Model
from lowerbound.plots import is_picture, pairs, save_grid
from lowerbound.report.samples import by_condition, framed
from lowerbound.roles import Context
from lowerbound.runs.opened import (
    add_label,
    class_names,
    known,
    load_as,
    open_run,
    own_data,
    run_options,
)
from lowerbound.runs.run import Run
from lowerbound.utils.files import write_atomic, write_text
from lowerbound.utils.messages import either, printable
from lowerbound.utils.progress import counting
from lowerbound.utils.seeding import seeded

SAMPLED = 64
EACH = 10  # samples for each y, where there are several
CONDITIONS = 10  # held-out examples whose y is given, where it is no class
# as in the paper on importance-weighted imputation there are more draws than for a bound
IMPUTING = 1000
EXAMPLES_AT_ONCE = 100  # examples at a time
PIECE = (
    10 * EXAMPLES_AT_ONCE
    # examples of a file that are read at a time to be scored: a multiple, so that the draws are the
    # same
)


def sample(argv: Sequence[str]) -> None:
    """Draw examples from the model of a run."""
    options = run_options(
        "sample",
        "RUN -n N --out FILE",
        "Draw examples from a trained model: z ~ p(z), then x ~ p(x|z). Of a model that is "
        "conditioned on y: so many for each class, a row a class, or for the one that --label "
        "names; where y is no class, for the y of each of the first held-out examples, a row each, "
        "with y before them, where it is a strip of a picture, and the truth behind.",
    )
    options.add(
        "n", int, f"how many (default: {SAMPLED}); for each y, where there are several ({EACH})"
    )
    add_label(options)
    options.add("mean", bool, "give the mean of p(x|z) instead of a draw from it", False)
    options.add("seed", int, "of the draws", 0)
    _add_out(
        options,
        "an array (n, ...) as .npy, a table as .csv (the class in a last column), or pictures side "
        "by side as .png",
    )
    arguments = options.read(argv)
    run, model = open_run(arguments)
    write = _writer(run, model, arguments["out"], formulas=arguments["formulas"])
    one = known(run, model, arguments["label"])
    several = model.condition is not None and arguments["label"] is None
    n = arguments["n"] if arguments["n"] is not None else EACH if several else SAMPLED
    classes = class_names(run, model)
    label = run.config()["data"].get("labels") or "y"
    if not several:
        drawn = model.sample(n, arguments["seed"], one, mean_of_x=arguments["mean"])
        write(
            drawn, labels=None if arguments["label"] is None else (label, [arguments["label"]] * n)
        )
        return
    data = own_data(run)
    context = data.context("test")[:CONDITIONS]
    if isinstance(model.condition, int):
        context = Context(y=torch.arange(model.condition))
    drawn = by_condition(model, context, n, arguments["seed"], arguments["mean"])
    if isinstance(model.condition, tuple) and Path(arguments["out"]).suffix == ".png":
        drawn = framed(drawn, data.examples("test", CONDITIONS), data)
    write(
        drawn.flatten(0, 1),
        drawn.shape[1],
        (label, [name for name in classes for _ in range(n)]) if classes else None,
    )


def reconstruct(argv: Sequence[str]) -> None:
    """Encode and decode examples."""
    options = run_options(
        "reconstruct",
        "RUN [DATA] --out FILE",
        "Reconstruct examples: the mean of p(x|z) at the mean of q(z|x), deterministic. A .png "
        "shows each example (odd rows) above its reconstruction (even rows). DATA defaults to the "
        "run's own test split.",
    )
    _add_data(options, optional=True)
    options.add("n", int, "only the first n (64 for a .png)")
    _add_out(options, "an array (n, ...) as .npy, a table as .csv, or pictures as .png")
    arguments = options.read(argv)
    run, model = open_run(arguments)
    write = _writer(run, model, arguments["out"], formulas=arguments["formulas"])
    data, split = _data(run, model, arguments)
    is_png = Path(arguments["out"]).suffix == ".png"
    if arguments["n"] is not None and arguments["n"] < 1:
        raise ValueError(f"n is {arguments['n']}: at least 1 example must be asked for")
    n = arguments["n"] or (64 if is_png else None)
    results = _in_batches(model.reconstruct, data, split, n)
    if is_png:
        columns = min(16, len(results))
        write(pairs(data.examples(split, n), results, columns), columns)
    else:
        write(results)


def encode(argv: Sequence[str]) -> None:
    """Write the latent codes of examples."""
    options = run_options(
        "encode",
        "RUN DATA --out FILE.npy",
        "The latent code of each example: the mean of q(z|x), deterministic, (n, *Z).",
    )
    _add_data(options)
    _add_out(options, "an array (n, *Z) as .npy")
    arguments = options.read(argv)
    run, model = open_run(arguments)
    write = _writer(run, model, arguments["out"], (".npy",))
    write(_in_batches(model.encode, *_data(run, model, arguments)))


def impute(argv: Sequence[str]) -> None:
    """Write examples with their missing entries filled in."""
    options = run_options(
        "impute",
        "RUN [DATA] --out FILE.csv",
        "Fill in what is missing (empty cells, NaN): its mean given what is observed, by "
        "importance sampling; of classes the most probable one. What is observed stays as it is. "
        "DATA defaults to the run's own test split.",
    )
    _add_data(options, optional=True)
    options.add("samples", int, "K, importance samples for each example", IMPUTING)
    options.add("draw", bool, "fill in a draw instead: another --seed, another imputation", False)
    options.add("seed", int, "of the draws", 0)
    _add_out(options, "a table as .csv, or an array (n, ...) as .npy")
    arguments = options.read(argv)
    run, model = open_run(arguments)
    write = _writer(run, model, arguments["out"], (".csv", ".npy"), arguments["formulas"])
    data, split = _data(run, model, arguments, "marginalise")
    x, context = data.examples(split), data.context(split)
    if context.mask is None:
        raise ValueError(
            f"{data.name}: nothing is missing in its split {split}, so there is nothing to impute"
        )
    names = model.names or Names()
    levels = (
        None
        if names.columns is None
        else torch.tensor([len(names.categories.get(name, ())) for name in names.columns])
    )
    how = {key: arguments[key] for key in ("samples", "seed", "draw")}
    filled = fill_in(model, x, context, **how, levels=levels)
    write(filled, copied=_written(data, split, context.mask))


def score(argv: Sequence[str]) -> None:
    """Write log p(x) of examples."""
    options = run_options(
        "score",
        "RUN DATA --out FILE.npy",
        "log p(x) of each example, in nats, by importance sampling: in expectation a lower bound, "
        "tighter with more samples.",
    )
    _add_data(options)
    options.add("samples", int, "K, importance samples for each example", SAMPLES)
    options.add("seed", int, "of the draws", 0)
    _add_out(options, "an array (n,) as .npy")
    arguments = options.read(argv)
    run, model = open_run(arguments)
    write = _writer(run, model, arguments["out"], (".npy",))
    data, split = _data(run, model, arguments)
    n, context = len(data[split]), data.context(split)
    pieces = (
        (x, context[start : start + PIECE])
        for start, x in zip(range(0, n, PIECE), data.batches(split, PIECE), strict=True)
    )
    with counting("scoring") as on_progress, seeded(arguments["seed"]):
        scores, refined, lost = log_marginals(
            model, pieces, arguments["samples"], on_progress=lambda done: on_progress(done, n)
        )
    for remark in words(refined, lost, n):
        warnings.warn(remark, stacklevel=1)
    write(scores.cpu())


def _add_data(options: Options, optional: bool = False) -> None:
    options.add_positional(
        "source", "DATA", "a name, a file, or a folder", None if optional else REQUIRED
    )
    options.add(
        "split", str, "train, valid, test or all; by default all of a file, and test of a named set"
    )
    options.add(
        "data.missing", Missing, "refuse or marginalise missing entries; by default as in training"
    )


def _add_out(options: Options, what: str) -> None:
    options.add("out", str, f"file to write: {what}")
    if ".csv" in what:
        options.add(
            "formulas",
            bool,
            "leave names and labels in a .csv that begin with =, +, - or @ as they are; otherwise "
            "an apostrophe before them makes them text, since a spreadsheet would run them. "
            "Numbers such as -1.5 are never changed",
            False,
        )


def _data(
    run: Run, model: Model, arguments: Mapping[str, Any], missing: Missing | None = None
) -> tuple[Dataset, str]:
    """The data that are named, or the run's own, and the split of them; missing entries as the run
    has it, or as asked for.
    """
    source, split = arguments["source"], arguments["split"]
    if source is None:
        data, split = own_data(run), split or "test"
    else:
        split = split or ("test" if source in NAMED else "all")
        data = load_as(
            run,
            source,
            "all" if split == "all" else None,
            missing or (arguments.get("data") or {}).get("missing"),
        )
    return model.matched(data), split


def _in_batches(
    function: Callable[[Tensor, Context], Tensor],
    data: Dataset,
    split: str,
    first: int | None = None,
) -> Tensor:
    """A function of each example of a split, or of the first so many, (n, ...)."""
    context, batches, done = data.context(split), [], 0
    for x in data.batches(split, EXAMPLES_AT_ONCE, first):
        batches.append(function(x, context[done : done + len(x)]).cpu())
        done += len(x)
    return torch.cat(batches)


def _written(data: Dataset, split: str, mask: Tensor) -> list[list[str | None]] | None:
    """The text of every observed cell of a .csv, which nothing that is read from it has to give
    back, and None of the others; None of another file.
    """
    path = Path(data.name or "")
    if path.suffix.lower() != ".csv" or data.columns is None:
        return None
    every = cells_of(path, data.columns)
    rows = split_rows(len(every), None, data.options["splits"], data.options["seed"], str(path))
    return [
        [cell if is_seen else None for cell, is_seen in zip(every[row], seen, strict=True)]
        for row, seen in zip(rows[split].tolist(), mask.tolist(), strict=True)
    ]


def _writer(
    run: Run,
    model: Model,
    out: str | None,
    kinds: Sequence[str] = (".npy", ".csv", ".png"),
    formulas: bool = False,
) -> Callable[..., None]:
    """A function that writes the result, after checks that need no result: nobody waits for work
    that cannot be kept.
    """
    if out is None:
        raise ValueError(
            f"say which file to write: --out {either([f'FILE{kind}' for kind in kinds])}"
        )
    path = Path(out).expanduser()
    if path.suffix not in kinds:
        raise ValueError(f"--out {out}: the file's name must end in {either(kinds)}")
    if not path.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {path.parent}")
    if path.suffix == ".png" and not is_picture(model.x_shape):
        raise ValueError(f"examples of shape {model.x_shape} are no pictures; write them as .npy")
    if path.suffix == ".csv" and len(model.x_shape) != 1:
        raise ValueError(
            f"examples of shape {model.x_shape} are no rows of a table; write them as .npy"
        )
    card = run.config()["data"]
    limits, decimals = card.get("range", [0.0, 1.0]), card.get("decimals")

    def write(
        result: Tensor,
        columns: int | None = None,
        labels: tuple[str, Sequence[str]] | None = None,
        copied: Sequence[Sequence[str | None]] | None = None,
    ) -> None:
        if path.suffix == ".png":
            save_grid(path, result, (limits[0], limits[1]), columns)
        elif path.suffix == ".csv":
            names = model.names or Names()
            cells, known = result.cpu().numpy(), (names.columns, names.categories)
            write_text(path, text(cells, *known, labels, decimals, copied, formulas))
        else:
            buffer = io.BytesIO()
            np.save(buffer, result.cpu().numpy(), allow_pickle=False)
            write_atomic(path, lambda stream: stream.write(buffer.getvalue()))
        print(f"{printable(path)}: {tuple(result.shape)}")

    return write
