"""The configuration of a run: checked before it begins, written when it does, and compared when it
is resumed.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from lowerbound.config.build import complete, describe_model, listed
from lowerbound.config.parts import describe, foreign_packages
from lowerbound.data import load
from lowerbound.data.dataset import Dataset
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.fabric import Precision
from lowerbound.parallel.processes import Processes, check_devices, launched
from lowerbound.parallel.shards import has_all_gathered
from lowerbound.roles import Part
from lowerbound.runs.run import Run
from lowerbound.training.compiled import check_compiler
from lowerbound.training.optimizers import OptimizerName
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import unknown

Schedule = Literal["constant", "cosine", "linear"]

DIVISION = ("devices", "accumulate")  # settings that divide the work, and leave the result as it is


def configuration(
    model: Model, objective: Objective, data: Dataset, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The complete, resolved configuration of a run."""
    card = {"name": data.name, **data.options, "sha256": data.sha256}
    card |= {"event_shape": list(data.event_shape), "range": list(data.range)}
    card |= {} if data.columns is None else {"columns": list(data.columns)}
    parts = {**describe_model(model), "objective": describe(objective, "objective")}
    if foreign := sorted(foreign_packages(parts)):
        complete(
            parts, trust=foreign
        )  # what could not be loaded again is refused before it is trained
        warnings.warn(
            f"the model has parts from {', '.join(foreign)}; loading the run will ask for "
            f"trust={foreign} (--trust)",
            stacklevel=5,
        )
    plain = {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in settings.items()
    }
    return {"data": card, **listed(parts), **plain}


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
    kept = run.config()
    kept.pop("format")
    before, now = _comparable(_untold(kept, config, function)), _comparable(config)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        told = "; ".join(
            f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed[:3]
        )
        raise ValueError(
            f"{run.path} cannot be resumed with other data or settings ({told}); use a new folder"
        )


def _untold(
    before: Mapping[str, Any], now: Mapping[str, Any], function: Callable[..., Any]
) -> dict[str, Any]:
    """A run's configuration with what it does not say, because a later version added it: the
    default, which it then was.

    Names of classes and columns follow from the data, whose checksum is compared.
    """
    parts = listed(complete(before, trust=sorted(foreign_packages(now))))
    of_data = {key: now["data"][key] for key in ("classes", "columns") if key in now["data"]}
    given = {**_defaults(load), **of_data, **before["data"]}
    told = {key: given[key] for key in {**before["data"], **now["data"]} if key in given}
    return {
        **{key: own for key, own in _defaults(function).items() if key in now},
        **before,
        **parts,
        "data": told,
    }


def _comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on: not on how many share the work, nor on which of several equal
    devices does it.
    """
    flat = {key: value for key, value in _flat(config).items() if key not in DIVISION}
    return flat | {"device": str(flat.get("device")).partition(":")[0]}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: own.default for name, own in inspect.signature(function).parameters.items()}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        own = list(value) if isinstance(value, tuple) else value  # as a file holds it
        flat |= _flat(own, f"{prefix}{key}.") if isinstance(own, Mapping) else {prefix + key: own}
    return flat


def check_settings(settings: Mapping[str, Any], data: Dataset) -> None:
    """Refuse arguments of :func:`~lowerbound.fit` that are out of range, on these data and this
    machine.

    Raises:
        ValueError: which, and what would be in range.
    """
    for name in ("epochs", "batch_size", "seed", "patience", "accumulate"):
        if not isinstance(settings[name], int) and not (
            name == "patience" and settings[name] is None
        ):
            raise TypeError(f"{name} is {settings[name]!r}: it must be a whole number")
    for name in ("epochs", "batch_size", "accumulate"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: it must be at least 1")
    if not 0 < settings["learning_rate"] < math.inf:
        raise ValueError(
            f"learning_rate is {settings['learning_rate']}: it must be a positive number"
        )
    if settings["clip"] is not None and not settings["clip"] > 0:
        raise ValueError(f"clip is {settings['clip']}: it must be a positive number, or None")
    if not 0 <= settings["seed"] < 2**63:
        raise ValueError(f"seed is {settings['seed']}: it must be at least 0 and below 2**63")
    if not (
        isinstance(settings["checkpoint_seconds"], (int, float))
        and settings["checkpoint_seconds"] >= 0
    ):
        raise ValueError(
            f"checkpoint_seconds is {settings['checkpoint_seconds']!r}: it must be a number, at "
            "least 0"
        )
    for name, valid in (
        ("optimizer", OptimizerName),
        ("schedule", Schedule),
        ("precision", Precision),
    ):
        if settings[name] not in get_args(valid):
            raise ValueError(unknown(name, str(settings[name]), get_args(valid)))
    if "train" not in data.splits:
        raise ValueError(f"there is no split train to train on: {data}")
    if settings["patience"] is not None:
        if settings["patience"] < 1:
            raise ValueError(f"patience is {settings['patience']}: it must be at least 1, or None")
        if "valid" not in data.splits:
            raise ValueError(
                "early stopping (patience) needs a validation split, and these data have none"
            )
    device = find_device(settings["device"])
    world = launched()
    check_devices(settings["devices"], device, world)
    if (count := world.size * settings["accumulate"]) > settings["batch_size"]:
        raise ValueError(
            f"batch_size is {settings['batch_size']}, and is divided by {count} (processes times "
            f"accumulate); take at least {count}: it counts the examples of all processes together"
        )
    if settings["compile"] is True and settings["accumulate"] > 1:
        raise ValueError(
            "compile makes one graph of a step in one piece; leave it off, or use accumulate 1"
        )
    if settings["precision"] == "16-mixed" and device.type == "cpu":
        raise ValueError("precision '16-mixed' needs a GPU; on a CPU use 'bf16-mixed' or '32-true'")
    if settings["precision"] == "64-true" and device.type == "mps":
        raise ValueError(
            "precision '64-true' is not there on mps; use device 'cpu', or precision '32-true'"
        )
    if (
        settings["precision"] == "bf16-mixed"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"precision 'bf16-mixed' is not there on {device}; use '16-mixed' or '32-true'"
        )
    if not isinstance(settings["compile"], bool):
        raise TypeError(f"compile is {settings['compile']!r}: it must be True or False")
    if settings["compile"]:
        check_compiler(device)


def check_pieces(
    model: Model, objective: Objective, accumulate: int, compile: bool, world: Processes
) -> None:
    """Refuse to work piece by piece on what needs a whole batch at once, and to compile what
    processes gather.

    Raises:
        ValueError: what needs it, and what would work.
    """
    found = [
        type(own).__name__
        for own in (objective, *model.modules(), *objective.modules())
        if _compares(own)
    ]
    if not found:
        return
    if compile and world.size > 1:
        raise ValueError(
            f"{found[0]} takes statistics of the batch, which several processes gather, and that "
            "cannot be compiled; leave compile off, or use devices 1"
        )
    if accumulate > 1:
        raise ValueError(
            f"accumulate is {accumulate}, and {found[0]} takes statistics of the batch, which "
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
