"""The configuration of a run: checked before it begins, written when it does, and compared when it
is resumed.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from lowerbound.config.build import complete, describe_model, listed
from lowerbound.config.parts import describe, foreign_packages
from lowerbound.config.settings import flat
from lowerbound.data import load
from lowerbound.data.dataset import Dataset
from lowerbound.data.held_out import SPLIT, split_digest
from lowerbound.model import Model
from lowerbound.networks import MLP
from lowerbound.objective import Objective
from lowerbound.parallel.processes import Processes
from lowerbound.parallel.shards import has_all_gathered
from lowerbound.roles import Part
from lowerbound.runs.run import Run
from lowerbound.training.settings import Settings

DIVISION = ("devices", "accumulate")  # settings that divide the work, and leave the result as it is
ORIGIN = "init."  # whose weights a run began with: what is resumed has weights of its own


def configuration(
    model: Model, objective: Objective, data: Dataset, settings: Settings
) -> dict[str, Any]:
    """The complete, resolved configuration of a run, with whose weights it began."""
    card = {"name": data.name, **data.options, "sha256": data.sha256}
    card |= {"event_shape": list(data.event_shape), "range": list(data.range)}
    card |= {SPLIT: split_digest(data)}
    card |= {} if data.columns is None else {"columns": list(data.columns)}
    card |= {} if data.decimals is None else {"decimals": list(data.decimals)}
    parts = parts_of(model, objective)
    if foreign := sorted(foreign_packages(parts)):
        # what could not be loaded again is refused before it is trained
        complete(parts, trust=foreign)
        warnings.warn(
            f"the model has parts from {', '.join(foreign)}; loading the run will ask for "
            f"trust={foreign} (--trust)",
            stacklevel=6,
        )
    record = {"data": card, **listed(parts), **settings.as_record()}
    return record if model.origin is None else {**record, "init": dict(model.origin)}


def parts_of(model: Model, objective: Objective) -> dict[str, Any]:
    """The configuration of every part of a model, and of its objective."""
    return {**describe_model(model), "objective": describe(objective, "objective")}


def trained_as(model: Model, objective: Objective) -> dict[str, Any]:
    """What stands beside the weights: all of the configuration that their numbers depend on."""
    return {"event_shape": list(model.x_shape), **listed(parts_of(model, objective))}


def check_same(run: Run, config: Mapping[str, Any], function: Callable[..., Any]) -> None:
    """Refuse to resume a run with other data or another configuration.

    Args:
        run: the run.
        config: with which it is to go on.
        function: takes the settings; its defaults are those of a setting that is newer than the
            run.

    Raises:
        ValueError: what differs.
    """
    recorded = run.config()
    recorded.pop("format")
    before, now = _comparable(_completed(recorded, config, function)), _comparable(config)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        differences = "; ".join(
            f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed[:3]
        )
        raise ValueError(
            f"{run.path} cannot be resumed with other data or settings ({differences}); use a new "
            "folder"
        )


def _completed(
    before: Mapping[str, Any], now: Mapping[str, Any], function: Callable[..., Any]
) -> dict[str, Any]:
    """A run's configuration with what it does not say, because a later version added it: the
    default, which it then was.

    Names of classes and columns follow from the data, whose checksum is compared.
    """
    parts = listed(complete(before, trust=sorted(foreign_packages(now))))
    derived = ("classes", "columns", "decimals")
    of_data = {key: now["data"][key] for key in derived if key in now["data"]}
    known = {**_defaults(load), **of_data, **before["data"]}
    data = {key: known[key] for key in {**before["data"], **now["data"]} if key in known}
    settings = {key: value for key, value in _defaults(function).items() if key in now}
    return {**settings, **before, **parts, "data": data}


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on: not on how many share the work, nor on which of several equal
    devices does it.
    """
    settings = {
        key: value
        for key, value in _flat(config).items()
        if key not in DIVISION and not key.startswith(ORIGIN)
    }
    return settings | {"device": str(settings.get("device")).partition(":")[0]}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: p.default for name, p in inspect.signature(function).parameters.items()}


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: list(value) if isinstance(value, tuple) else value  # as a file holds it
        for key, value in flat(config).items()
    }


def check_batches(model: Model, objective: Objective, data: Dataset, settings: Settings) -> None:
    """Refuse batches of one example where the examples of a batch are compared with each other.

    Raises:
        ValueError: who compares them, and what would work.
    """
    if objective.batch_statistics and settings.batch_size < 2:
        name = type(objective).__name__
        raise ValueError(
            f"batch_size is 1, and {name} compares the examples of a batch with each other; take "
            "at least 2"
        )
    n = len(data["train"])
    is_normalised = any(isinstance(module, MLP) and module.batch_norm for module in model.modules())
    if is_normalised and 1 in (settings.batch_size, n % settings.batch_size):
        raise ValueError(
            f"{n:,} examples in batches of {settings.batch_size} leave one by itself, and batch "
            "normalisation compares the examples of a batch; choose another batch_size, or "
            "batch_norm false"
        )


def check_pieces(
    model: Model, objective: Objective, accumulate: int, compile: bool, world: Processes
) -> None:
    """Refuse to work piece by piece on what needs a whole batch at once, and to compile what
    processes gather.

    Raises:
        ValueError: what needs it, and what would work.
    """
    names = [
        type(module).__name__
        for module in (objective, *model.modules(), *objective.modules())
        if _compares(module)
    ]
    if not names:
        return
    if compile and world.size > 1:
        raise ValueError(
            f"{names[0]} takes statistics of the batch, which several processes gather, and that "
            "cannot be compiled; leave compile off, or use devices 1"
        )
    if accumulate > 1:
        raise ValueError(
            f"accumulate is {accumulate}, and {names[0]} takes statistics of the batch, which "
            "pieces one after the other do not give; use accumulate 1, with more devices or a "
            "smaller batch_size"
        )


def check_all_gathered(objective: Objective, world: Processes) -> None:
    """Refuse an objective that compares the examples of a share as if they were the batch; called
    after the first step.

    Raises:
        ValueError: it does.
    """
    if world.size > 1 and objective.batch_statistics and not has_all_gathered():
        raise ValueError(
            f"{type(objective).__name__} compares the examples of a batch, and took one process's "
            "for all; let it take them from the whole batch (lowerbound.parallel.shards.gathered), "
            "or use devices 1"
        )


def _compares(module: nn.Module) -> bool:
    """Whether a module takes something from the batch as a whole."""
    if isinstance(module, (Part, Objective)):
        return module.batch_statistics
    return isinstance(module, nn.modules.batchnorm._BatchNorm)
