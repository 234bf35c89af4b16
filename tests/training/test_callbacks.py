"""Those who listen: what they are told and when, what they can end, and what their errors do."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.runs.run import Run
from lowerbound.training.callbacks import Training
from tests.conftest import make_model

STEPS = 12  # batches of 128 in an epoch of the digits


def train(data: Dataset, **settings: Any) -> lb.History:
    torch.manual_seed(0)
    return lb.fit(
        make_model(data), lb.objectives.ELBO(), data, **{"epochs": 3, "progress": False, **settings}
    )


class Diary(lb.Callback):
    """Writes down everything that it is told."""

    def __init__(self, stop_at: int = 0) -> None:
        self.entries: list[tuple[str, int, int]] = []
        self.stop_at = stop_at
        self.means: list[Mapping[str, float | None]] = []

    def note(self, what: str, training: Training) -> None:
        self.entries.append((what, training.epoch, training.step))

    def on_train_begin(self, training: Training) -> None:
        self.note("begin", training)

    def on_step_end(self, training: Training) -> None:
        self.note("step", training)
        self.means.append(training.means())

    def on_epoch_end(self, training: Training, record: Mapping[str, Any]) -> bool:
        self.note("epoch", training)
        assert record is training.state.records[-1]
        return record["epoch"] == self.stop_at

    def on_train_end(self, training: Training) -> None:
        self.note("end", training)


def test_everything_is_told_in_order(binary_digits: Dataset) -> None:
    diary = Diary()
    history = train(binary_digits, epochs=2, callbacks=[diary])
    steps = [("step", 1 + i // STEPS, i + 1) for i in range(2 * STEPS)]
    assert diary.entries == [
        ("begin", 1, 0),
        *steps[:STEPS],
        ("epoch", 2, STEPS),
        *steps[STEPS:],
        ("epoch", 3, 2 * STEPS),
        ("end", 3, 2 * STEPS),
    ]
    # the means over an epoch so far are, at its end, those of its record
    assert diary.means[STEPS - 1]["loss"] == pytest.approx(history.series("loss")[0])


@pytest.mark.parametrize("as_function", [True, False])
def test_true_ends_a_training_and_nothing_else_does(
    binary_digits: Dataset, as_function: bool, tmp_path: Path
) -> None:
    seen: list[Mapping[str, Any]] = []

    def listen(record: Mapping[str, Any]) -> object:
        seen.append(record)
        return True if record["epoch"] == 2 else torch.ones(3)  # an array is not True

    callback = listen if as_function else Diary(stop_at=2)
    history = train(binary_digits, epochs=9, callbacks=[callback], out=tmp_path / "run")
    assert len(history.epochs) == 2
    assert Run(tmp_path / "run").metrics() == history.epochs
    if as_function:
        assert seen == history.epochs


def test_listening_changes_no_weight(binary_digits: Dataset) -> None:
    results = []
    for callbacks in ([], [Diary(), print]):
        torch.manual_seed(0)
        model = make_model(binary_digits)
        lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=1, progress=False,
               callbacks=callbacks)  # fmt: skip
        results.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(*results)


class Failing(lb.Callback):
    """Raises where it is asked to."""

    def __init__(self, where: str) -> None:
        self.where, self.has_ended = where, False

    def fail(self, where: str) -> None:
        if where == self.where:
            raise KeyError("no such column")

    def on_train_begin(self, training: Training) -> None:
        self.fail("on_train_begin")

    def on_step_end(self, training: Training) -> None:
        if training.step == STEPS + 5:
            self.fail("on_step_end")

    def on_epoch_end(self, training: Training, record: Mapping[str, Any]) -> None:
        if record["epoch"] == 2:
            self.fail("on_epoch_end")

    def on_train_end(self, training: Training) -> None:
        self.has_ended = True
        self.fail("on_train_end")


@pytest.mark.parametrize("where", ["on_train_begin", "on_step_end", "on_epoch_end", "on_train_end"])
def test_a_failure_has_the_callbacks_name_and_the_state_is_saved(
    binary_digits: Dataset, where: str, tmp_path: Path
) -> None:
    """A run that a callback has ended, resumed without it, ends as one that it never met."""
    callback = Failing(where)
    out = tmp_path / "run"
    with pytest.raises(
        lb.CallbackError,
        match=rf"the callback Failing failed \({where}, .*KeyError.*saved in .*run",
    ) as caught:
        train(binary_digits, callbacks=[callback], out=out)
    assert isinstance(caught.value.__cause__, KeyError)
    assert callback.has_ended
    resumed = train(binary_digits, out=out, resume=True)
    undisturbed = train(binary_digits, out=tmp_path / "other")
    assert resumed.series("loss") == undisturbed.series("loss")
    for name, value in lb.load(out).state_dict().items():
        assert torch.equal(value, lb.load(tmp_path / "other").state_dict()[name])


def test_a_function_that_fails_is_named(binary_digits: Dataset) -> None:
    def division(record: Mapping[str, Any]) -> None:
        record["epoch"] / 0

    with pytest.raises(lb.CallbackError, match=r"division failed .*ZeroDivisionError.*nothing was"):
        train(binary_digits, callbacks=[division])


@pytest.mark.parametrize("wrong", [[3], ["print"], [lb.Callback], print, "print", [nn.ReLU()]])
def test_what_is_no_callback_is_refused(binary_digits: Dataset, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"callback"):
        train(binary_digits, callbacks=wrong)


class Keeping:
    """A logger with no more than it must have."""

    def __init__(self) -> None:
        self.metrics: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((metrics, step))


class KeepingMore(Keeping):
    """One that has it all."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters: dict[str, Any] = {}
        self.statuses: list[str] = []

    def log_hyperparams(self, parameters: dict[str, Any]) -> None:
        self.parameters |= parameters

    def finalize(self, status: str) -> None:
        self.statuses.append(status)


def test_a_logger_is_handed_the_numbers_of_each_record(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    logger = KeepingMore()
    history = train(binary_digits, logger=logger, out=tmp_path / "run")
    assert [step for _, step in logger.metrics] == [STEPS, 2 * STEPS, 3 * STEPS]
    metrics = logger.metrics[-1][0]
    assert metrics["train/loss"] == history.epochs[-1]["train"]["loss"]
    assert metrics["valid/elbo"] == history.epochs[-1]["valid"]["elbo"]
    assert "rate_estimator" not in metrics  # a word
    assert all(type(value) in (int, float) for value in metrics.values())
    assert logger.parameters["posterior/part"] == "DiagonalNormal"
    assert logger.parameters["epochs"] == 3
    assert logger.statuses == ["success"]


def test_two_methods_of_a_logger_are_optional(binary_digits: Dataset) -> None:
    logger = Keeping()
    train(binary_digits, logger=logger, epochs=1)
    assert len(logger.metrics) == 1


def test_the_csv_logger_has_every_epoch_also_of_a_resumed_run(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with pytest.raises(lb.CallbackError):
        train(binary_digits, out=out, logger="csv", callbacks=[Failing("on_epoch_end")])
    history = train(binary_digits, out=out, logger="csv", resume=True)
    with (out / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["train/loss"]) for row in rows] == history.series("loss")
    train(binary_digits, out=out, epochs=1, overwrite=True)
    assert not (out / "logs").exists()


def test_tensorboard_is_given_every_epoch(binary_digits: Dataset, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(binary_digits, out=tmp_path / "run", logger="tensorboard")
    events = EventAccumulator(str(tmp_path / "run" / "logs")).Reload()
    scalars = events.Scalars("train/loss")
    assert [event.step for event in scalars] == [STEPS, 2 * STEPS, 3 * STEPS]
    assert [event.value for event in scalars] == pytest.approx(history.series("loss"), rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logger": "tensorbord"}, "unknown logger 'tensorbord'.*tensorboard"),
        ({"logger": "csv"}, "writes into the run folder: say which with out="),
    ],
)
def test_a_logger_that_cannot_be_is_refused(
    binary_digits: Dataset, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        train(binary_digits, **settings)
    with pytest.raises(TypeError, match="logger is 3: it must be"):
        train(binary_digits, logger=3)
