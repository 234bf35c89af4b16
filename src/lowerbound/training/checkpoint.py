"""The state of a training run: all that changes from step to step, as tensors and JSON, out and
back in.

Two parts of it are more than storage: the running sums, from which an epoch's means are made, and
the best weights so far.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.processes import ALONE, Processes, Votes, together
from lowerbound.runs.checked import check_records
from lowerbound.runs.run import Run
from lowerbound.runs.tensors import load_weights
from lowerbound.training.average import WeightAverage
from lowerbound.training.configuration import trained_as
from lowerbound.training.optimizers import moments
from lowerbound.training.sums import Sums
from lowerbound.utils.messages import first_line
from lowerbound.utils.seeding import check_random_state, random_state, set_random_state

GROUPS = ("model", "objective", "optimizer", "random", "best", "average", "sums")
"""What a checkpoint holds tensors of; a name is group.name."""


class Best:
    """The best weights on validation; where there is no validation, nothing is kept and the last
    weights count.

    Attributes:
        loss: the smallest validation loss so far.
        epoch: in which it was found, or the last one where there is no validation.
        epochs_since: how many epochs have passed without a better one.
        weights: a copy of the model's state; empty while there is none.
    """

    def __init__(self) -> None:
        self.loss = math.inf
        self.epoch = 0
        self.epochs_since = 0
        self.weights: dict[str, Tensor] = {}

    def see(self, epoch: int, loss: float | None, model: nn.Module) -> None:
        """Keep a copy of the weights if the validation loss is the smallest so far."""
        self.epochs_since += 1
        if loss is not None and loss < self.loss:
            self.loss, self.epoch, self.epochs_since = loss, epoch, 0
            self.weights = copy_of(model)
        elif not self.weights:
            self.epoch = epoch


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's state, without gradients."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


class TrainingState:
    """Everything that a training run needs in order to go on as if it had not been interrupted: the
    weights, the optimiser, and what is saved of them.

    Args:
        model: the model.
        objective: the objective, which may have parameters of its own.
        optimizer: the optimiser of both.
        precision: Fabric's precision plugin, which holds the loss scale of 16-bit training.
        device: where sums are kept.
        ema: decay of the average of the weights that is evaluated and saved in the place of the
            weights; None for the weights themselves.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        optimizer: Optimizer,
        precision: Any,
        device: torch.device,
        ema: float | None = None,
    ) -> None:
        self.model, self.objective = model, objective
        self.optimizer, self.precision = optimizer, precision
        self.average = None if ema is None else WeightAverage(model, ema)
        self.best = Best()
        # the epoch at work, its batches done, its seconds so far
        self.epoch, self.done, self.seconds = 1, 0, 0.0
        self.step = 0
        self.sums = Sums(device)
        self.records: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Take the weights as they are now for those at the start."""
        if self.average is not None:
            self.average.begin()

    def count_step(self) -> None:
        """A step has been taken."""
        if self.average is not None:
            self.average.update(self.step)
        self.done += 1
        self.step += 1

    def evaluated(self) -> AbstractContextManager[None]:
        """A block in which the model has the weights that are evaluated and saved."""
        return nullcontext() if self.average is None else self.average.in_place()

    def see(self, loss: float | None) -> None:
        """Keep the weights of this epoch if its validation loss is the smallest so far."""
        with self.evaluated():
            self.best.see(self.epoch, loss, self.model)

    def close_epoch(self, record: dict[str, Any]) -> None:
        """Record an epoch and start the next."""
        self.records.append(record)
        self.epoch, self.done, self.seconds = self.epoch + 1, 0, 0.0
        self.sums = Sums(self.sums.device)

    def weights(self) -> dict[str, Tensor]:
        """The weights that training leaves, were it to end now."""
        with self.evaluated():
            return self.best.weights or copy_of(self.model)

    def leave_weights(self) -> None:
        """Let the model have them."""
        if self.best.weights or self.average is not None:
            self.model.load_state_dict(self.weights())

    def save(self, run: Run) -> None:
        """Commit the state to a run folder: the weights and metrics first, the checkpoint that
        vouches for them last.

        Raises:
            ValueError: an optimiser of the user's own keeps what no file can hold.
        """
        if self.step:  # before the first step there is nothing that deserves to be called a model
            run.write_model(self.weights(), trained_as(self.model, self.objective))
            run.write_metrics(self.records)
        by_parameter = self.optimizer.state_dict()["state"]
        moments, counters = _told_apart(by_parameter)
        tensors = {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": moments,
            "random": random_state(),
            "best": self.best.weights,
            "average": {} if self.average is None else self.average.values,
            "sums": self.sums.totals,
        }
        state = {
            "epoch": self.epoch,
            "done": self.done,
            "step": self.step,
            "seconds": self.seconds,
            "records": self.records,
            "best": {
                "loss": _finite(self.best.loss),
                "epoch": self.best.epoch,
                "since": self.best.epochs_since,
            },
            "counters": counters,
            "precision": self.precision.state_dict(),
            "made_by": made_by(),
        }
        run.write_checkpoint(
            {f"{group}.{k}": v for group, named in tensors.items() for k, v in named.items()}, state
        )

    def _optimizer_state(
        self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any]
    ) -> dict[int, dict[str, Any]]:
        """The optimiser's state by parameter; of our own optimisers the shapes are checked, since
        the fused update does not.
        """
        expected = moments(self.optimizer)
        by_parameter: dict[int, dict[str, Any]] = {}
        for name, value in [*tensors.items(), *counters.items()]:
            number, _, key = name.partition(".")
            if expected and (
                not isinstance(value, Tensor)
                or value.shape != expected[int(number)].get(key)
                or not value.is_floating_point()
            ):
                raise ValueError(f"optimizer.{name} has the wrong shape or type")
            by_parameter.setdefault(int(number), {})[key] = value
        names = {i: set(state) for i, state in by_parameter.items()}
        if expected and names and names != {i: set(shapes) for i, shapes in enumerate(expected)}:
            raise ValueError("the optimiser's moments are not those of the parameters")
        return by_parameter

    def restore(
        self,
        checkpoint: tuple[dict[str, Tensor], dict[str, Any]],
        folder: Path,
        world: Processes = ALONE,
    ) -> str:
        """Go back to a state that was committed to a run folder, by as many processes or by others.

        Returns:
            What differs from the machine that wrote it and so may change the last bits, in words;
            "" where nothing does.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        flat, state = checkpoint
        try:
            tensors = _grouped(flat)
            by_parameter = self._optimizer_state(tensors["optimizer"], state.get("counters", {}))
            best = state["best"]
            loss = math.inf if best["loss"] is None else float(best["loss"])
            counts = [int(state[key]) for key in ("epoch", "done", "step")]
            counts += [int(best["epoch"]), int(best["since"])]
            seconds, records = float(state["seconds"]), [dict(each) for each in state["records"]]
            check_records(records)
            precision, maker = dict(state["precision"]), {"processes": 1, **state["made_by"]}
            if (
                min(*counts, seconds) < 0
                or len(records) != counts[0] - 1
                or bool(counts[1]) != bool(tensors["sums"])
            ):
                raise ValueError("its counts do not fit each other")
            if bool(tensors["best"]) != math.isfinite(loss) or "cpu" not in tensors["random"]:
                raise ValueError("the best weights or the random states are missing")
            check_random_state(tensors["random"])
            if counts[2] and not by_parameter and moments(self.optimizer):
                raise ValueError("the optimiser's moments are missing")
            if self.average is not None:
                self.average.restore(tensors["average"])
            self.precision.load_state_dict(precision)
            # its settings follow from the configuration
            settings = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": by_parameter, "param_groups": settings})
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
            raise ValueError(f"the checkpoint in {folder} is damaged: {what}") from None
        for module, group in (
            (self.model, "best"), (self.model, "model"), (self.objective, "objective")
        ):  # fmt: skip
            if tensors[group] or group != "best":
                load_weights(module, tensors[group], f"the checkpoint's {group}")
        self.epoch, self.done, self.step, self.best.epoch, self.best.epochs_since = counts
        self.best.loss, self.seconds, self.records = loss, seconds, records
        device, states = self.sums.device, tensors["random"]
        if device.type == "cuda" and world.size > 1 and "cuda0" in states:
            states = {**states, f"cuda{device.index}": states["cuda0"]}  # all draw as the first one
        set_random_state(states)
        self.best.weights = {name: value.to(device) for name, value in tensors["best"].items()}
        counted = 1 if world.is_first else 0
        self.sums.totals = {
            name: counted * value.to(device) for name, value in tensors["sums"].items()
        }
        now = made_by()
        return ", ".join(
            f"{key} {maker.get(key)} then, {now[key]} now"
            for key in now
            if maker.get(key) != now[key]
        )


class Saver:
    """Commits the state when it is due, and when training stops.

    Args:
        state: what is saved.
        run: where to, in the process that writes; None in the others, and where nothing is written.
        is_saved: whether the run has a folder at all, in any process.
        world: the processes that share the training.
        seconds: least time between two checkpoints.
    """

    def __init__(
        self,
        state: TrainingState,
        run: Run | None,
        is_saved: bool,
        world: Processes,
        seconds: float,
    ) -> None:
        self.state, self.run, self.is_saved, self.world = state, run, is_saved, world
        self.seconds, self.saved_at, self.votes = seconds, time.monotonic(), Votes(world)

    def after_step(self, wants_to_stop: bool) -> bool:
        """Save if it is due, or if any process wants to stop; whether to stop."""
        is_due = self.world.is_first and time.monotonic() - self.saved_at >= self.seconds
        stops, saves = self.votes.ask(wants_to_stop, is_due)
        if self.is_saved and (stops or saves):
            self.state.sums.collect(self.world)
            self.save()
            self.saved_at = time.monotonic()
        return stops

    def save(self) -> None:
        """Save now."""
        if self.run is not None:
            self.state.save(self.run)


def _told_apart(
    by_parameter: Mapping[int, Mapping[str, Any]],
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimiser keeps of each parameter: its tensors, and its numbers, by flat names."""
    tensors: dict[str, Tensor] = {}
    counters: dict[str, Any] = {}
    for number, state in by_parameter.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{key}"] = value
            elif value is None or isinstance(value, (bool, int, float, str)):
                counters[f"{number}.{key}"] = value
            else:
                raise ValueError(
                    f"the optimiser keeps {key} of type {type(value).__name__}, which no "
                    "checkpoint can hold; train without out=, or use one that keeps tensors "
                    "and numbers"
                )
    return tensors, counters


def _grouped(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named group.name, by group."""
    tensors: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for name, value in flat.items():
        group, _, rest = name.partition(".")
        tensors[group][rest] = value
    return tensors


def made_by() -> dict[str, Any]:
    """What a result depends on in its last bits, beside the configuration."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": together().size,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
