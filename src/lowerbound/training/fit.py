"""Training: one loop, read from top to bottom.

    for each epoch: for each batch: draw = model(x); loss = objective(draw); backward; clip; step

It runs on Lightning Fabric, which places the model on the device and sets the precision. Everything
random follows from the seed, and the state of the loop is committed to the run folder, so that a
run killed at any moment and resumed ends with the same weights, bit for bit, as one never
interrupted (same machine, torch and number of threads). Who wants to know what happens is a
callback (:mod:`lowerbound.training.callbacks`): the loop tells all of them, and knows none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowerbound.checks import check_columns
from lowerbound.data.dataset import Dataset
from lowerbound.data.names import Names
from lowerbound.model import Model
from lowerbound.objective import Objective, check_parts
from lowerbound.parallel.fabric import Precision, make_fabric
from lowerbound.parallel.launch import is_orphan
from lowerbound.parallel.processes import Processes, join
from lowerbound.parallel.shards import check_in_step
from lowerbound.runs.run import Run
from lowerbound.training.callbacks import (
    CallbackError,
    CallbackLike,
    Callbacks,
    CollapseWarning,
    EarlyStopping,
    LoggerCallback,
    MetricsFile,
    ProgressDisplay,
    Training,
    as_callbacks,
)
from lowerbound.training.checkpoint import Saver, TrainingState
from lowerbound.training.compiled import has_graphs
from lowerbound.training.configuration import (
    check_all_gathered,
    check_batches,
    check_pieces,
    check_same,
    configuration,
)
from lowerbound.training.history import History
from lowerbound.training.loggers import Logger, LoggerName, as_logger
from lowerbound.training.optimizers import OptimizerFactory, OptimizerName
from lowerbound.training.passes import check_draws, dry_run, prepare
from lowerbound.training.settings import Schedule, Settings, check_settings
from lowerbound.training.steps import Steps
from lowerbound.training.sums import Sums
from lowerbound.training.validation import Validation
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.messages import pasted
from lowerbound.utils.modes import by_default, check_has_values
from lowerbound.utils.seeding import seeded
from lowerbound.utils.stopping import stop_requested


@by_default()
def fit(
    model: Model,
    objective: Objective,
    data: Dataset,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int = 0,
    optimizer: OptimizerName | OptimizerFactory = "adam",
    learning_rate: float = 1e-3,
    schedule: Schedule = "constant",
    weight_decay: float = 0.0,
    clip: float | None = None,
    ema: float | None = None,
    patience: int | None = None,
    device: str = "auto",
    precision: Precision = "32-true",
    compile: bool = False,
    devices: int | None = None,
    accumulate: int = 1,
    checkpoint_seconds: float = 10.0,
    out: str | Path | Run | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callbacks: Sequence[CallbackLike] = (),
    logger: LoggerName | Logger | None = None,
) -> History:
    """Train a model, and leave it with its best weights.

    Args:
        model: what to train; it is changed in place.
        objective: what to minimise.
        data: its train split is trained on; its valid split, where there is one, chooses the
            weights that are kept; its test split is not touched.
        epochs: passes over the training data.
        batch_size: examples a step; the last batch of an epoch may be smaller and counts in full.
        seed: of the order of examples and of every draw. It does not act on the model's initial
            weights, which exist already; on the command line the same seed sets those too.
        optimizer: "adam" (Kingma and Ba 2014, arXiv 1412.6980), or "muon" (Jordan et al. 2024),
            which takes orthogonal steps in the weights of layers and Adam's in all else
            (:mod:`lowerbound.training.optimizers`): fewer steps are needed, and each costs more, by
            hundreds of examples. An objective's own parameters are always Adam's. In Python also
            a function that makes an optimiser of groups of parameters and a learning rate, such as
            ``torch.optim.RMSprop`` or ``functools.partial(torch.optim.SGD, momentum=0.9)``; whether
            a step is skipped is then found out on the host, which waits for a GPU.
        learning_rate: Adam's step size; a step of Muon has the same. An objective may ask for
            another one for its own parameters.
        schedule: of every learning rate over the run: "constant", "cosine" or "linear", which fall
            to zero.
        weight_decay: AdamW's (Loshchilov and Hutter 2017, arXiv 1711.05101): each step multiplies
            the weights of layers by 1 - learning_rate * weight_decay, by Adam and by Muon alike.
            Biases, scales, normalisations and what a part learns besides are left alone. With
            compile the update stays outside of the graph.
        clip: largest norm of the gradient; None leaves it. An objective's own parameters are
            clipped by themselves. Long trainings by Muon want one, a few times the usual norm.
        ema: decay, in (0, 1), of an exponential moving average of the weights (0.999 remembers some
            1,000 steps), which is validated, saved and left in the model in the place of the
            weights themselves; None for those.
        patience: stop after so many epochs in a row without a better validation loss; None never
            stops early.
        device: "auto" takes a GPU if there is one; "cpu", "cuda", "cuda:1", "mps".
        precision: "32-true", "bf16-mixed", "16-mixed" (GPU only) or "64-true".
        compile: make one graph of a step, from the data to the optimiser's update, by
            ``torch.compile``: the same numbers up to rounding, sooner, after some seconds of
            compilation, which are audience. Batches of another size than batch_size, in validation
            also, go without it. Several processes, 16-bit training and Muon make a graph of the
            pass and its gradients. It needs a C++ compiler, and on a GPU Triton.
        devices: on this machine, each with a process of its own; on a CPU these are processes. None
            takes as many processes as were started together (torchrun), or one. They share each
            batch, whose size stays batch_size, and the result is that of one process up to rounding
            (docs/scaling.md).
        accumulate: work on each batch in so many pieces, one after the other, and step once, for
            batches whose activations do not fit into memory: the same step, up to rounding.
        checkpoint_seconds: least time between two checkpoints: what a kill may cost; the disk is
            flushed no more often.
        out: run folder to write, or a :class:`~lowerbound.runs.run.Run`; None writes nothing.
        resume: go on with the run in the folder from its last checkpoint.
        overwrite: replace the run in the folder.
        progress: show the epochs on standard error.
        callbacks: who listens: objects of :class:`~lowerbound.Callback`, or functions that are
            given the record of each epoch, as in metrics.jsonl; True from either ends the training.
        logger: where each epoch's numbers go besides: "tensorboard" or "csv", which write into the
            folder ``logs`` of the run, or any object with ``log_metrics(metrics, step)``, such as
            the loggers of Lightning, wandb or mlflow.

    Returns:
        The metrics of every epoch. The model is in evaluation mode.

    Raises:
        ValueError: arguments out of range, data that do not fit the model, a device that is not
            there, parameters that receive no gradient, a folder that holds another run, resuming
            with other data or settings, or compiling without a compiler, or what cannot be made one
            graph.
        TypeError: an argument of another type.
        CallbackError: a callback has failed; the state has been saved.
        ConnectionError: another of the processes that share the work has ended.
        KeyboardInterrupt: Ctrl-C or a termination signal; the state has been saved and the message
            says how to go on.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.data.load("digits")
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((8,)),
        ...     posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (8,)),
        ...     likelihood=lb.likelihoods.Normal((8,), digits.event_shape),
        ... )
        >>> history = lb.fit(model, lb.objectives.ELBO(), digits, epochs=2, progress=False)
        >>> loss = history.series("loss")
        >>> loss[1] < loss[0]
        True
        >>> history = lb.fit(
        ...     model,
        ...     lb.objectives.ELBO(),
        ...     digits,
        ...     progress=False,
        ...     callbacks=[lambda record: record["epoch"] == 3],  # True stops
        ... )
        >>> len(history.epochs)
        3
    """
    settings = Settings(
        epochs=epochs, batch_size=batch_size, seed=seed, optimizer=optimizer,
        learning_rate=learning_rate, schedule=schedule, weight_decay=weight_decay, clip=clip,
        ema=ema, patience=patience, device=device, precision=precision, compile=compile,
        devices=devices, accumulate=accumulate, checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip
    theirs = as_callbacks(callbacks)
    _check(model, objective, data, settings)
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if (resume or overwrite) and out is None:
        raise ValueError("resume and overwrite act on a run folder: say which with out=")
    world = join()
    fabric = make_fabric(device, precision, world)
    settings = replace(settings, device=str(fabric.device), devices=world.local_size)
    folder = out if isinstance(out, Run) or out is None else Run(out)
    run = folder if world.is_first else None
    logs = None if logger is None else as_logger(logger, folder)
    config = world.broadcast(
        lambda: {} if run is None else configuration(model, objective, data, settings)
    )
    check_parts(objective, model)
    check_pieces(model, objective, accumulate, compile, world)
    rate_estimator = dry_run(model, objective, data)
    if model.names is None or model.names.columns is None:
        model.names = Names.of(data)
    if world.size * accumulate > 1:
        check_draws(model, objective, data)

    with ExitStack() as stack:
        world.broadcast(lambda: _open_folder(stack, run, config, resume, overwrite))
        steps = Steps(model, objective, data, settings, fabric, world)
        state = TrainingState(
            model, objective, steps.optimizer, fabric.strategy.precision, fabric.device, ema
        )
        if run is not None and not resume:
            stack.enter_context(_nothing_left_of_a_failure(run, state))
        draws = seeded(seed, globally=compile or has_graphs(steps.one_pass))
        blocks = (draws, steps.tracing(), world.watched(), retain_freed_memory())
        for block in (*blocks, model.trusting()):
            stack.enter_context(block)
        news = _begin(model, state, steps, data, folder if resume else None, run, world)
        validation = Validation(steps.one_pass, objective, data, fabric, world)
        stop = stack.enter_context(stop_requested())
        examples = len(data["train"])
        training = Training(
            model, objective, settings, config, steps.per_epoch, examples, state, run, news
        )
        ours = [ProgressDisplay(progress), CollapseWarning(), MetricsFile()]
        ours += [] if patience is None else [EarlyStopping(patience)]
        ours += [] if logs is None else [LoggerCallback(logs, starts_anew=logger == "csv")]
        audience = Callbacks([*ours, *theirs] if world.is_first else [], training)
        stack.callback(audience.on_train_end)
        audience.on_train_begin()
        saver = Saver(state, run, folder is not None, world, checkpoint_seconds)
        _loop(training, data, steps, validation, audience, saver, folder, stop, rate_estimator)
        saver.save()
        if state.step:
            model.origin = {"run": None} if folder is None else world.broadcast(folder.origin)
    state.leave_weights()
    steps.one_pass.eval()
    if audience.failure is not None:  # at the beginning, or at the end
        raise _stopped(audience.failure, state, steps, folder)
    return History(state.records, state.best.epoch, folder.path if folder else None)


def _loop(
    training: Training,
    data: Dataset,
    steps: Steps,
    validation: Validation,
    audience: Callbacks,
    saver: Saver,
    folder: Run | None,
    stop: threading.Event,
    rate_estimator: str,
) -> None:
    """All epochs that are left.

    Args:
        training: model, objective, settings and state.
        data: their training examples are shown in each epoch.
        steps: what is done with a batch.
        validation: what is done after an epoch.
        audience: who is told.
        saver: what commits the state to the folder.
        folder: the run folder, in every process; None where nothing is saved.
        stop: set when training is asked to stop.
        rate_estimator: how the rate is estimated, for the record.

    Raises:
        KeyboardInterrupt: it was asked to stop.
        CallbackError: a callback has failed.
    """
    state, settings, world = training.state, training.settings, saver.world
    is_over = world.agree(audience.wants_to_stop or audience.failure is not None)[0]
    while state.epoch <= settings.epochs and not is_over:
        # from the seed and the epoch alone, so that a resumed run needs no history of shuffles
        order = data.order("train", settings.seed, state.epoch)
        batches = order.split(settings.batch_size)
        began = time.monotonic() - state.seconds
        steps.one_pass.train()
        while state.done < steps.per_epoch:
            index = batches[state.done]
            data.read_ahead("train", order, state.done * settings.batch_size, len(index))
            steps.take(index, state)
            if steps.compile_seconds:  # no part of the time of an epoch
                began += steps.compile_seconds
                training.news.append(f"compiled in {steps.compile_seconds:.1f} s")
                training.compile_seconds = steps.compile_seconds
            if state.step == 1:
                check_all_gathered(training.objective, world)
            state.seconds = time.monotonic() - began
            audience.on_step_end()
            is_asked = stop.is_set() or (world.size > 1 and is_orphan())
            if saver.after_step(is_asked or audience.failure is not None):
                raise _stopped(audience.failure, state, steps, folder)

        check_in_step(world)
        sums = state.sums.collect(world)
        _check_steps(state, sums, steps)
        state.seconds = time.monotonic() - began  # once more, now that the device has finished
        with state.evaluated():
            valid = validation(stop)
        if world.agree(stop.is_set())[0]:
            saver.save()
            raise _stopped(None, state, steps, folder)
        record = _record(training, sums, valid, rate_estimator)
        state.see(valid["loss"] if valid else None)
        state.close_epoch(record)
        audience.on_epoch_end(record)
        is_over, has_failed = world.agree(audience.wants_to_stop, audience.failure is not None)
        if has_failed:
            saver.save()
            raise _stopped(audience.failure, state, steps, folder)


def _check(model: Model, objective: Objective, data: Dataset, settings: Settings) -> None:
    """Refuse what cannot be trained, before anything is done about it."""
    _check_kind("model", model, Model)
    _check_kind("objective", objective, Objective)
    _check_kind("data", data, Dataset)
    check_has_values(model)
    check_settings(settings, data)
    check_batches(model, objective, data, settings)
    model.check_data(data)
    check_columns(model.likelihood, data)


def _check_kind(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        is_class = isinstance(value, type)
        what = (
            f"the class {value.__name__}: make an object of it"
            if is_class
            else type(value).__name__
        )
        raise TypeError(f"{name} must be a {kind.__name__}, not {what}")


def _open_folder(
    stack: ExitStack, run: Run | None, config: Mapping[str, Any], resume: bool, overwrite: bool
) -> None:
    """Hold the run folder, and begin the run in it, unless it is resumed."""
    if run is None:
        return
    if resume:
        check_same(run, config, fit)
    stack.enter_context(run.locked())
    if not resume:
        run.begin(config, overwrite)


def _begin(
    model: Model,
    state: TrainingState,
    steps: Steps,
    data: Dataset,
    resumed: Run | None,
    run: Run | None,
    world: Processes,
) -> list[str]:
    """Start from the beginning, or where the run stood; what is to be said about it.

    Args:
        model: what is trained.
        state: the state.
        steps: the steps to come.
        data: what the model takes its units from.
        resumed: the folder of the run that is gone on with; None for a new one.
        run: the folder, in the process that writes.
        world: the processes that share the training.
    """
    checkpoint = world.broadcast(
        lambda: run.checkpoint() if run is not None and resumed is not None else None
    )
    if checkpoint is None or resumed is None:
        # a run that was killed before its first checkpoint begins anew
        prepare(model, data)
        world.copy_first(steps.one_pass.state_dict().values())
        state.begin()
        if run is not None:
            # the initial weights: a kill before the first checkpoint must not lose them
            state.save(run)
        return []
    differs = state.restore(checkpoint, resumed.checkpoint_folder, world)
    seen = min(state.done * steps.settings.batch_size, len(data["train"]))
    state.sums.seen = seen if world.is_first else 0
    if not differs:
        return []
    return [f"resumed under other conditions, so the last bits may differ: {differs}"]


@contextmanager
def _nothing_left_of_a_failure(run: Run, state: TrainingState) -> Iterator[None]:
    """Take the run folder back where training fails, other than by being interrupted, before it has
    finished an epoch.
    """
    try:
        yield
    except (ConnectionError, CallbackError):
        raise  # it was somebody else who failed: this training can go on from here
    except Exception:
        if not state.records:
            run.abandon()
        raise


def _check_steps(state: TrainingState, sums: Sums, steps: Steps) -> None:
    """Refuse to go on where an epoch has taught nothing; a scaler of gradients may skip many."""
    if int(sums["skipped"]) == steps.per_epoch and not steps.settings.is_scaled:
        raise ValueError(
            f"all {steps.per_epoch} steps of epoch {state.epoch} gave gradients that are not "
            "finite, so nothing was learned; try a smaller learning rate, or clip"
        )


def _record(
    training: Training,
    sums: Sums,
    valid: Mapping[str, float | None] | None,
    rate_estimator: str,
) -> dict[str, Any]:
    """The record of an epoch.

    Raises:
        ValueError: nothing finite was ever learned.
    """
    state, steps = training.state, training.steps_per_epoch
    means, skipped = sums.means(training.examples), int(sums["skipped"])
    if not state.best.weights:
        loss = means["loss"] if valid is None else valid["loss"]
        if loss is None and (valid is not None or skipped > steps / 2):
            raise ValueError(
                f"training has diverged: after epoch {state.epoch} the loss is not finite; try a "
                "smaller learning rate, clip, or data on a smaller scale"
            )
    record = {
        "epoch": state.epoch,
        "step": state.step,
        "train": means,
        "valid": valid,
        "rate_estimator": rate_estimator,
        "learning_rate": state.optimizer.param_groups[0]["lr"],
        "skipped_steps": skipped,
        "seconds": round(state.seconds, 3),
        "examples_per_second": round(training.examples / state.seconds, 1),
    }
    if training.settings.compile:
        record["compile_seconds"] = round(training.compile_seconds, 3)
        training.compile_seconds = 0.0
    return record


def _stopped(
    failure: CallbackError | None, state: TrainingState, steps: Steps, folder: Run | None
) -> BaseException:
    """What is raised where training stops before its end: where it stands, and how to go on."""
    where = f"stopped in epoch {state.epoch} after {state.done} of {steps.per_epoch} steps"
    if folder is None:
        words = f"{where}; nothing was saved, since no run folder was given (out=)"
    else:
        command = f"lowerbound train --resume --out {pasted(folder.path)}"
        words = f"{where}; saved in {folder.path}; go on with: {command}"
    if failure is None:
        return KeyboardInterrupt(words)
    error = CallbackError(f"{failure}; {words}")
    error.__cause__ = failure.__cause__
    return error
