"""The settings of a training, together: what travels from ``fit`` to all that it is made of."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch

from lowerbound.data.dataset import Dataset
from lowerbound.parallel.fabric import Precision
from lowerbound.parallel.processes import check_devices, launched
from lowerbound.training.compiled import check_compiler
from lowerbound.training.optimizers import OptimizerFactory, OptimizerName
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import unknown

Schedule = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True)
class Settings:
    """The arguments of :func:`~lowerbound.fit` that say how a model is trained, by their names."""

    epochs: int
    batch_size: int
    seed: int
    optimizer: OptimizerName | OptimizerFactory
    learning_rate: float
    schedule: Schedule
    weight_decay: float
    clip: float | None
    ema: float | None
    patience: int | None
    device: str
    precision: Precision
    compile: bool
    devices: int | None
    accumulate: int
    checkpoint_seconds: float

    @property
    def is_scaled(self) -> bool:
        """Whether the loss is scaled up, since gradients in 16 bits would vanish otherwise."""
        return self.precision == "16-mixed"

    def rate(self, progress: float) -> float:
        """What the schedule multiplies every learning rate by.

        Args:
            progress: 0 at the first step of the run, 1 at the last.
        """
        if self.schedule == "linear":
            return 1.0 - progress
        if self.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1.0

    def as_record(self) -> dict[str, Any]:
        """As config.yaml holds them: plain values; of an optimiser of the user's own its name."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        if not isinstance(self.optimizer, str):
            record["optimizer"] = name_of(self.optimizer)
        return {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in record.items()
        }


def name_of(factory: Callable[..., Any]) -> str:
    """What a factory is called in a record: its dotted path, with what a partial fixes.

    Example:
        >>> name_of(functools.partial(torch.optim.SGD, momentum=0.9))
        'torch.optim.sgd.SGD(momentum=0.9)'
    """
    if isinstance(factory, functools.partial):
        fixed = ", ".join(f"{name}={value!r}" for name, value in factory.keywords.items())
        return f"{name_of(factory.func)}({fixed})"
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    return f"{getattr(factory, '__module__', '')}.{name}"


def check_settings(settings: Settings, data: Dataset) -> None:
    """Refuse settings that are out of range, on these data and this machine.

    Raises:
        ValueError: which, and what would be in range.
        TypeError: which is of another type, and what type it must be.
    """
    _check_numbers(settings)
    for name, valid in (("schedule", Schedule), ("precision", Precision)):
        if getattr(settings, name) not in get_args(valid):
            raise ValueError(unknown(name, str(getattr(settings, name)), get_args(valid)))
    if isinstance(settings.optimizer, str):
        if settings.optimizer not in get_args(OptimizerName):
            raise ValueError(unknown("optimizer", settings.optimizer, get_args(OptimizerName)))
    elif not callable(settings.optimizer):
        raise TypeError(
            f"optimizer is {settings.optimizer!r}: it must be 'adam', 'muon', or a function that "
            "makes an optimiser, such as torch.optim.RMSprop"
        )
    elif settings.weight_decay:
        raise ValueError(
            "weight_decay is a setting of the optimisers 'adam' and 'muon'; fix it in your own: "
            "functools.partial(torch.optim.SGD, weight_decay=...)"
        )
    if "train" not in data.splits:
        raise ValueError(f"there is no split train to train on: {data}")
    if settings.patience is not None and "valid" not in data.splits:
        raise ValueError(
            "early stopping (patience) needs a validation split, and these data have none"
        )
    _check_machine(settings)


def _check_numbers(settings: Settings) -> None:
    for name in ("epochs", "batch_size", "seed", "patience", "accumulate"):
        value = getattr(settings, name)
        is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not is_whole and not (name == "patience" and value is None):
            raise TypeError(f"{name} is {value!r}: it must be a whole number")
    for name in ("learning_rate", "weight_decay", "clip", "ema"):
        value = getattr(settings, name)
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number and not (name in ("clip", "ema") and value is None):
            raise TypeError(f"{name} is {value!r}: it must be a number")
    for name in ("epochs", "batch_size", "accumulate"):
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}: it must be at least 1")
    if settings.patience is not None and settings.patience < 1:
        raise ValueError(f"patience is {settings.patience}: it must be at least 1, or None")
    if not 0 <= settings.seed < 2**63:
        raise ValueError(f"seed is {settings.seed}: it must be at least 0 and below 2**63")
    if not 0 < settings.learning_rate < math.inf:
        raise ValueError(f"learning_rate is {settings.learning_rate}: it must be a positive number")
    if not 0 <= settings.weight_decay < math.inf:
        raise ValueError(
            f"weight_decay is {settings.weight_decay}: it must be a number, at least 0"
        )
    if settings.clip is not None and not settings.clip > 0:
        raise ValueError(f"clip is {settings.clip}: it must be a positive number, or None")
    if settings.ema is not None and not 0 < settings.ema < 1:
        raise ValueError(
            f"ema is {settings.ema}: it must lie between 0 and 1, as 0.999 does, or be None"
        )
    seconds = settings.checkpoint_seconds
    if not (isinstance(seconds, (int, float)) and seconds >= 0):
        raise ValueError(f"checkpoint_seconds is {seconds!r}: it must be a number, at least 0")
    if not isinstance(settings.compile, bool):
        raise TypeError(f"compile is {settings.compile!r}: it must be True or False")


def _check_machine(settings: Settings) -> None:
    device = find_device(settings.device)
    world = launched()
    check_devices(settings.devices, device, world)
    if (count := world.size * settings.accumulate) > settings.batch_size:
        raise ValueError(
            f"batch_size is {settings.batch_size}, and is divided by {count} (processes times "
            f"accumulate); take at least {count}: it counts the examples of all processes together"
        )
    if settings.compile and settings.accumulate > 1:
        raise ValueError(
            "compile makes one graph of a step in one piece; leave it off, or use accumulate 1"
        )
    if settings.precision == "16-mixed" and device.type == "cpu":
        raise ValueError("precision '16-mixed' needs a GPU; on a CPU use 'bf16-mixed' or '32-true'")
    if settings.precision == "64-true" and device.type == "mps":
        raise ValueError(
            "precision '64-true' is not there on mps; use device 'cpu', or precision '32-true'"
        )
    if (
        settings.precision == "bf16-mixed"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(
            f"precision 'bf16-mixed' is not there on {device}; use '16-mixed' or '32-true'"
        )
    if settings.compile:
        check_compiler(device)
