"""Those who listen to a training: the loop tells them what happens, and knows none of them.

    class Announce(lb.Callback):
        def on_epoch_end(self, training, record):
            print(record["epoch"], record["train"]["loss"])
            return record["train"]["loss"] < 100  # True stops the training

    lb.fit(model, objective, data, callbacks=[Announce()])

A plain function is a callback too. It is given the record of each epoch, as it stands in
metrics.jsonl, and may return True to stop. What ``fit`` does beside training is done by callbacks
of the same kind: the progress display, metrics.jsonl, the warning of a collapse, early stopping,
loggers.

Where several processes share a training, callbacks are called in the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from lowerbound.evaluation.collapse import warn_of_collapse
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.runs.run import Run
from lowerbound.training.checkpoint import TrainingState
from lowerbound.training.loggers import Logger
from lowerbound.training.settings import Settings
from lowerbound.utils.messages import first_line
from lowerbound.utils.progress import Display

Record: TypeAlias = Mapping[str, Any]
"""What is known of an epoch when it ends: an object of metrics.jsonl."""


@dataclass
class Training:
    """A training as its callbacks see it: to be looked at, not to be changed.

    Args:
        model: what is trained. Its weights are those of the step just taken; with an average of the
            weights (``ema``) that is what stands in ``fit``'s result, and not here.
        objective: what is minimised.
        settings: how.
        configuration: the complete configuration, as in config.yaml; empty where no run folder is
            written.
        steps_per_epoch: batches in an epoch.
        examples: how many training examples there are.
        state: where the training stands.
        run: the run folder; None where nothing is written.
        news: what happened since the last call that a person should be told, in words.
        compile_seconds: what compiling took, where it was done in this epoch.
    """

    model: Model
    objective: Objective
    settings: Settings
    configuration: Mapping[str, Any]
    steps_per_epoch: int
    examples: int
    state: TrainingState
    run: Run | None
    news: list[str]
    compile_seconds: float = 0.0

    @property
    def epoch(self) -> int:
        """The epoch at work, from 1."""
        return self.state.epoch

    @property
    def step(self) -> int:
        """Steps taken since the beginning."""
        return self.state.step

    @property
    def step_of_epoch(self) -> int:
        """Steps taken in this epoch."""
        return self.state.done

    @property
    def examples_per_second(self) -> float:
        """In this epoch so far."""
        seen = min(self.state.done * self.settings.batch_size, self.examples)
        return seen / max(self.state.seconds, 1e-9)

    def means(self) -> dict[str, float | None]:
        """Means over this epoch so far, of this process. On a GPU it waits for the device."""
        return self.state.sums.means(max(1, self.state.sums.seen))


class CallbackError(RuntimeError):
    """A callback has failed; its own error is the cause."""


class Callback:
    """Listens to a training; each method does nothing until it is overridden."""

    def on_train_begin(self, training: Training) -> bool | None:
        """Called before the first step; True ends the training there."""

    def on_step_end(self, training: Training) -> None:
        """Called after every step. Asking for numbers waits for the device: do it seldom."""

    def on_epoch_end(self, training: Training, record: Record) -> bool | None:
        """Called after every epoch, and its validation; True ends the training."""

    def on_train_end(self, training: Training) -> None:
        """Called once at the end, whatever ended the training: here is closed what was opened."""


class FunctionCallback(Callback):
    """A function that is given the record of each epoch, and may return True to stop.

    Args:
        function: takes one record.
    """

    def __init__(self, function: Callable[[Record], bool | None]) -> None:
        self.function = function

    def on_epoch_end(self, training: Training, record: Record) -> bool | None:
        return self.function(record)


CallbackLike: TypeAlias = Callback | Callable[[Record], bool | None]


def as_callbacks(callbacks: Iterable[CallbackLike]) -> list[Callback]:
    """Each as a callback.

    Raises:
        TypeError: one is neither a callback nor a function.

    Example:
        >>> as_callbacks([print])[0].function
        <built-in function print>
    """
    if isinstance(callbacks, (Callback, str)) or not isinstance(callbacks, Iterable):
        raise TypeError(
            f"callbacks is {callbacks!r}: it must be a list of callbacks or functions, as in "
            "callbacks=[print]"
        )
    result: list[Callback] = []
    for callback in callbacks:
        if isinstance(callback, Callback):
            result.append(callback)
        elif isinstance(callback, (type, nn.Module)) or not callable(callback):
            raise TypeError(
                f"{callback!r} is no callback: give an object of a subclass of lb.Callback, or a "
                "function of an epoch's record"
            )
        else:
            result.append(FunctionCallback(callback))
    return result


class Callbacks:
    """The callbacks of one training, called in turn; the first failure ends the training.

    Args:
        callbacks: in the order in which they are called.
        training: what they are told of.

    Attributes:
        failure: the error of the callback that raised, with its name in the message; None while
            none has.
        wants_to_stop: whether one has said so.
    """

    def __init__(self, callbacks: Sequence[Callback], training: Training) -> None:
        self.callbacks, self.training = callbacks, training
        self.failure: CallbackError | None = None
        self.wants_to_stop = False
        # most listen to epochs only, and a call for each step would cost a little each time
        self.of_steps = [
            callback
            for callback in callbacks
            if type(callback).on_step_end is not Callback.on_step_end
        ]
        self.begun: list[Callback] = []

    def on_train_begin(self) -> None:
        """Tell of the beginning."""
        for callback in self.callbacks:
            self.begun.append(callback)
            with self._named(callback, "on_train_begin"):
                self._hear(callback.on_train_begin(self.training))

    def on_step_end(self) -> None:
        """Tell of a step."""
        for callback in self.of_steps:
            with self._named(callback, "on_step_end"):
                callback.on_step_end(self.training)

    def on_epoch_end(self, record: Record) -> None:
        """Tell of an epoch."""
        for callback in self.callbacks:
            with self._named(callback, "on_epoch_end"):
                self._hear(callback.on_epoch_end(self.training, record))

    def on_train_end(self) -> None:
        """Tell of the end; all that were told of the beginning are told, even if one raises."""
        for callback in reversed(self.begun):
            with self._named(callback, "on_train_end"):
                callback.on_train_end(self.training)

    def _hear(self, answer: object) -> None:
        # an array or a record by mistake must not stop a training: it has to be True itself
        self.wants_to_stop = self.wants_to_stop or answer is True

    @contextmanager
    def _named(self, callback: Callback, method: str) -> Iterator[None]:
        """Note the failure of a callback under its name; what ends a program passes through."""
        try:
            yield
        except Warning:
            raise  # a warning that the user has made an error says itself where it comes from
        except Exception as error:
            named = callback.function if isinstance(callback, FunctionCallback) else type(callback)
            name = getattr(named, "__qualname__", repr(named))
            failure = CallbackError(
                f"the callback {name} failed ({method}, epoch {self.training.epoch}): "
                f"{type(error).__name__}: {first_line(error)}"
            )
            failure.__cause__ = error
            self.failure = self.failure or failure


class ProgressDisplay(Callback):
    """Shows the epochs on standard error.

    Args:
        is_shown: False shows nothing.
    """

    def __init__(self, is_shown: bool) -> None:
        self.is_shown = is_shown
        self.display: Display | None = None

    def on_train_begin(self, training: Training) -> None:
        steps = training.steps_per_epoch
        done = training.epoch - 1
        self.display = Display(training.settings.epochs, steps, self.is_shown, done)
        self.display.__enter__()
        self._tell(training)

    def on_step_end(self, training: Training) -> None:
        assert self.display is not None  # since training has begun
        if training.news:
            self._tell(training)
        rate = training.examples_per_second
        self.display.step(training.epoch, training.step_of_epoch, training.means, rate)

    def on_epoch_end(self, training: Training, record: Record) -> None:
        assert self.display is not None  # since training has begun
        self.display.epoch(record)

    def on_train_end(self, training: Training) -> None:
        if self.display is not None:
            self.display.__exit__(None, None, None)

    def _tell(self, training: Training) -> None:
        assert self.display is not None  # since training has begun
        for words in training.news:
            self.display.say(words)
        training.news.clear()


class MetricsFile(Callback):
    """Writes metrics.jsonl after each epoch."""

    def on_epoch_end(self, training: Training, record: Record) -> None:
        if training.run is not None:
            training.run.write_metrics(training.state.records)


class CollapseWarning(Callback):
    """Warns once, in the middle of a run, where z carries nothing."""

    def on_epoch_end(self, training: Training, record: Record) -> None:
        warn_of_collapse(record, training.settings.epochs)


class EarlyStopping(Callback):
    """Stops after so many epochs in a row without a better validation loss.

    The count is part of the state, so that a run that has stopped for it stays stopped when it is
    resumed.

    Args:
        patience: how many.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_train_begin(self, training: Training) -> bool:
        return training.state.best.epochs_since >= self.patience

    def on_epoch_end(self, training: Training, record: Record) -> bool:
        return training.state.best.epochs_since >= self.patience


class LoggerCallback(Callback):
    """Hands each epoch's record to a logger: numbers only, with flat names such as ``train/loss``.

    Args:
        logger: TensorBoard's and the CSV logger of lightning-fabric, wandb's, mlflow's, or any
            object with ``log_metrics(metrics, step)``.
        starts_anew: whether it keeps nothing of earlier epochs when a run is resumed, and so is
            handed them again.
    """

    def __init__(self, logger: Logger, starts_anew: bool = False) -> None:
        self.logger, self.starts_anew = logger, starts_anew

    def on_train_begin(self, training: Training) -> None:
        offered = getattr(self.logger, "log_hyperparams", None)
        if offered is not None and training.configuration:
            # Lightning's CSV logger has the method, and says so that it does nothing
            with suppress(NotImplementedError):
                offered(flat(training.configuration))
        for record in training.state.records if self.starts_anew else []:
            self.logger.log_metrics(numbers(record), step=record["step"])

    def on_epoch_end(self, training: Training, record: Record) -> None:
        self.logger.log_metrics(numbers(record), step=record["step"])

    def on_train_end(self, training: Training) -> None:
        offered = getattr(self.logger, "finalize", None)
        if offered is not None:
            has_ended = training.epoch > training.settings.epochs
            offered("success" if has_ended else "stopped")


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one, with names joined by slashes.

    Example:
        >>> flat({"epoch": 3, "train": {"loss": 1.5}, "valid": None})
        {'epoch': 3, 'train/loss': 1.5, 'valid': None}
    """
    result: dict[str, Any] = {}
    for name, value in record.items():
        nested = isinstance(value, Mapping)
        result |= flat(value, f"{prefix}{name}/") if nested else {prefix + name: value}
    return result


def numbers(record: Record) -> dict[str, float]:
    """The finite numbers of a record, under flat names; text, truth values and gaps are left out.

    Example:
        >>> numbers({"epoch": 3, "train": {"loss": 1.5, "elbo": None}, "rate_estimator": "sampled"})
        {'epoch': 3, 'train/loss': 1.5}
    """
    return {
        name: value
        for name, value in flat(record).items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
