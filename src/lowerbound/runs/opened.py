"""A trained run, as the commands open it: its model on a device, and data read as its own were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lowerbound.config.options import Options
from lowerbound.config.settings import REQUIRED, settings_of
from lowerbound.data import applicable, load
from lowerbound.data.dataset import Dataset
from lowerbound.data.held_out import SPLIT, check_unchanged
from lowerbound.data.names import say_ignored
from lowerbound.data.options import Missing
from lowerbound.model import Model
from lowerbound.parallel.processes import join
from lowerbound.roles import Context
from lowerbound.runs.run import Run
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import unknown


def run_options(command: str, usage: str, description: str) -> Options:
    """The options that every command on a run has."""
    options = Options(f"lowerbound {command} {usage}", description)
    options.add_positional("run", "RUN", "the run folder that training wrote", REQUIRED)
    options.add("device", str, "auto takes a GPU if there is one; cpu, cuda, mps", "auto")
    options.add("trust", str, "packages, by name, whose parts may be imported: a,b")
    return options


def trusted(packages: str | None) -> list[str]:
    """The packages that --trust names."""
    return [name.strip() for name in (packages or "").split(",") if name.strip()]


def open_run(arguments: Mapping[str, Any]) -> tuple[Run, Model]:
    """The run folder that the arguments name, and its model on the device that they name."""
    run = Run(arguments["run"])
    device = join().place(find_device(arguments["device"]))
    return run, run.model(trusted(arguments["trust"])).to(device)


def load_as(
    run: Run, source: str | None, splits: str | None = None, missing: Missing | None = None
) -> Dataset:
    """Data read as the run's own were: the same columns, by name, levels, classes, binarisation,
    dequantisation and size of pictures.

    Columns of a table that the model was not trained on are left out, and that is said.

    Args:
        run: the run.
        source: a name or a path; None for the run's own data.
        splits: another way to split them.
        missing: another way with missing entries.
    """
    card = run.card()
    name = card.get("name") if source is None else source
    if name is None:
        raise ValueError(
            f"{run.path} was trained on arrays in memory, which no file names; measure it in Python"
        )
    options = {
        setting.name: card[setting.name]
        for setting in settings_of(load)[1:]
        if setting.name in card
    }
    options |= {
        key: value for key, value in {"splits": splits, "missing": missing}.items() if value
    }
    if source is not None:
        options.pop("memory", None)  # it holds for the run's own file, of whatever size another is
    data = load(name, **applicable(name, options))
    if source is not None:
        expected = card.get("ignore") or ()
        say_ignored(str(source), [column for column in data.left_out if column not in expected])
    return data


def known(run: Run, model: Model, label: str | None) -> Context:
    """What a label, named as on the command line, is to a model: one row of context; an empty one
    where none is named.

    Raises:
        ValueError: the model is not conditioned on classes, or there is no class of that name.
    """
    if label is None:
        return Context()
    if not isinstance(model.condition, int):
        raise ValueError(
            f"--label {label}: the model of {run.path} is not conditioned on classes; leave it out"
        )
    names = class_names(run, model)
    if label not in names:
        raise ValueError(unknown("label", label, names))
    return Context(y=torch.tensor([names.index(label)]))


def class_names(run: Run, model: Model) -> list[str]:
    """The names of the classes that a model is conditioned on, their numbers where they have none;
    empty without classes.
    """
    if not isinstance(model.condition, int):
        return []
    return list(run.card().get("classes") or map(str, range(model.condition)))


def add_label(options: Options) -> None:
    """Give a command --label."""
    options.add(
        "label", str, "of a model that is conditioned on classes: which, by its name in the data"
    )


def own_data(run: Run) -> Dataset:
    """The data that a run was trained on.

    Raises:
        ValueError: they have changed since, or were never in a file.
    """
    card = run.card()
    if missing := [
        key for key in ("sha256", *([SPLIT] if run.is_signed else [])) if key not in card
    ]:
        raise ValueError(
            f"{run.config_file} lacks data.{missing[0]}, by which the data are known again; put it "
            "back"
        )
    data = load_as(run, None)
    check_unchanged(card, data, f"name the data to measure {run.path} on others")
    return data
