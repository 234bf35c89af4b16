"""Training: one loop, read from top to bottom.

    for each epoch: for each batch: draw = model(x); loss = objective(draw); backward; clip; step

It runs on Lightning Fabric, which places the model on the device and sets the precision. Everything random follows from
the seed, and the state of the loop is committed to the run folder, so that a run killed at any moment and resumed ends
with the same weights, bit for bit, as one never interrupted (same machine, torch and number of threads).
"""

from __future__ import annotations

import inspect
import math
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lowerbound.build import complete, describe_model, listed
from lowerbound.compiled import Compiled, check_compiler
from lowerbound.data import load
from lowerbound.dataset import Dataset
from lowerbound.devices import find_device
from lowerbound.evaluation import warn_of_collapse
from lowerbound.messages import unknown
from lowerbound.model import Model
from lowerbound.networks import MLP
from lowerbound.objective import Objective, check_parts
from lowerbound.optimizers import OptimizerName, make_optimizer
from lowerbound.parts import describe, foreign_packages
from lowerbound.passes import Pass, check_gradients, first_meeting, not_finite, parameter_groups, prepare
from lowerbound.progress import Display
from lowerbound.roles import Context
from lowerbound.run import Run
from lowerbound.seeding import seeded
from lowerbound.state import Best, Sums, TrainingState
from lowerbound.stopping import stop_requested

Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]
Schedule = Literal["constant", "cosine", "linear"]

VALID_BATCH = 1000  # examples at a time in validation, where there are no gradients to hold


@dataclass(frozen=True)
class History:
    """What happened in training.

    Args:
        epochs: one mapping an epoch, as in metrics.jsonl.
        best_epoch: the epoch whose weights the model holds: the best on validation, or the last where there is none.
        folder: the run folder, or None.
    """

    epochs: list[dict[str, Any]]
    best_epoch: int
    folder: Path | None = None

    def series(self, name: str, split: str = "train") -> list[float | None]:
        """One quantity over the epochs, as in ``history.series("elbo", "valid")``."""
        return [(epoch[split] or {}).get(name) for epoch in self.epochs]


def fit(
    model: Model,
    objective: Objective,
    data: Dataset,
    epochs: int = 100,
    batch_size: int = 128,
    seed: int = 0,
    optimizer: OptimizerName = "adam",
    learning_rate: float = 1e-3,
    schedule: Schedule = "constant",
    clip: float | None = None,
    patience: int | None = None,
    device: str = "auto",
    precision: Precision = "32-true",
    compile: bool = False,
    checkpoint_seconds: float = 10.0,
    out: str | Path | Run | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> History:
    """Train a model, and leave it with its best weights.

    Args:
        model: what to train; it is changed in place.
        objective: what to minimise.
        data: its train split is trained on; its valid split, where there is one, chooses the weights that are kept; its
            test split is not touched.
        epochs: passes over the training data.
        batch_size: examples a step; the last batch of an epoch may be smaller and counts in full.
        seed: of the order of examples and of every draw. It does not act on the model's initial weights, which exist
            already; on the command line the same seed sets those too.
        optimizer: "adam" (Kingma and Ba 2014, arXiv 1412.6980), or "muon" (Jordan et al. 2024), which takes orthogonal
            steps in the weights of layers and Adam's in all else (:mod:`lowerbound.optimizers`): fewer steps are needed, and
            each costs more, by hundreds of examples. An objective's own parameters are always Adam's.
        learning_rate: Adam's step size; a step of Muon has the same. An objective may ask for another one for its own
            parameters.
        schedule: of every learning rate over the run: "constant", "cosine" or "linear", which fall to zero.
        clip: largest norm of the gradient; None leaves it. An objective's own parameters are clipped by themselves.
        patience: stop after so many epochs in a row without a better validation loss; None never stops early.
        device: "auto" takes a GPU if there is one; "cpu", "cuda", "cuda:1", "mps".
        precision: "32-true", "bf16-mixed", "16-mixed" (GPU only) or "64-true".
        compile: make one graph of the pass through model and objective, forward and backward, by ``torch.compile``: the
            same numbers up to rounding, sooner, after some seconds of compilation, which are told. Batches of another size
            than batch_size, in validation also, take the plain pass. It needs a C++ compiler, and on a GPU Triton.
        checkpoint_seconds: least time between two checkpoints: what a kill may cost; the disk is flushed no more often.
        out: run folder to write, or a :class:`~lowerbound.run.Run`; None writes nothing.
        resume: go on with the run in the folder from its last checkpoint.
        overwrite: replace the run in the folder.
        progress: show the epochs on standard error.

    Returns:
        The metrics of every epoch. The model is in evaluation mode.

    Raises:
        ValueError: arguments out of range, data that do not fit the model, a device that is not there, parameters that
            receive no gradient, a folder that holds another run, resuming with other data or settings, or compiling
            without a compiler, or what cannot be made one graph.
        KeyboardInterrupt: Ctrl-C or a termination signal; the state has been saved and the message says how to go on.

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
    """
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "clip": clip,
        "patience": patience,
        "device": device,
        "precision": precision,
        "compile": compile,
        "checkpoint_seconds": checkpoint_seconds,
    }
    for name, value, kind in (("model", model, Model), ("objective", objective, Objective), ("data", data, Dataset)):
        if not isinstance(value, kind):
            given = (
                f"the class {value.__name__}: make an object of it" if isinstance(value, type) else type(value).__name__
            )
            raise TypeError(f"{name} must be a {kind.__name__}, not {given}")
    check_settings(settings, data)
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other")
    if (resume or overwrite) and out is None:
        raise ValueError("resume and overwrite act on a run folder: say which with out=")
    if objective.batch_statistics and batch_size < 2:
        name = type(objective).__name__
        raise ValueError(
            f"batch_size is 1, and {name} compares the examples of a batch with each other; take at least 2"
        )
    n = len(data["train"])
    if 1 in (batch_size, n % batch_size) and any(isinstance(own, MLP) and own.batch_norm for own in model.modules()):
        raise ValueError(
            f"{n:,} examples in batches of {batch_size} leave one by itself, and batch normalisation compares the examples "
            "of a batch; choose another batch_size, or batch_norm false"
        )
    model.check_data(data)
    fabric = _fabric(device, precision)
    settings["device"] = str(fabric.device)
    run = out if isinstance(out, Run) or out is None else Run(out)
    config = {} if run is None else _config(model, objective, data, settings)
    check_parts(objective, model)
    rate_estimator = first_meeting(model, objective, data)

    with ExitStack() as stack:
        if run is not None:
            if resume:
                _check_same(run, config)
            stack.enter_context(run.locked())
            if not resume:
                run.begin(config, overwrite)
        # fused Adam updates in one pass over memory, and can be told on the device to skip a step; in 16-bit training the
        # scaler of gradients decides that, and clips gradients of an optimiser that is not fused only
        scaled = precision == "16-mixed"
        bare = make_optimizer(optimizer, model, objective, learning_rate, fused=not scaled)
        groups = [group["params"] for group in parameter_groups(model, objective)]
        parameters = [p for group in groups for p in group]
        rates = [group["lr"] for group in bare.param_groups]  # an objective may ask for its own
        plain = Pass(model, objective)
        whole = min(batch_size, len(data["train"]))
        one_pass, stepping = fabric.setup(Compiled(plain, whole) if compile else plain, bare)
        compiling, compile_seconds = compile, 0.0
        state = TrainingState(model, objective, bare, fabric.strategy.precision, Best(patience), fabric.device)
        if run is not None and not resume:
            stack.enter_context(_nothing_left_of_a_failure(run, state))
        stack.enter_context(seeded(seed))
        # a run that was killed before its first checkpoint begins anew
        begins = run is None or not resume or not run.has_checkpoint
        if begins:
            prepare(model, data)
        differs = "" if run is None or begins else state.restore(run)
        if run is not None and begins:
            state.save(run)  # the initial weights: a kill before the first checkpoint must not lose them

        n, context = len(data["train"]), data.context("train")
        steps = math.ceil(n / batch_size)
        # in memory all are kept as they are seen; from a file they come again after every epoch
        held = fabric.to_device(data.examples("valid")) if "valid" in data.splits and not data.is_mapped else None
        stop = stack.enter_context(stop_requested())
        show = stack.enter_context(Display(epochs, steps, progress, state.epoch - 1))
        if differs:
            show.say(f"resumed under other conditions, so the last bits may differ: {differs}")
        saved_at = time.monotonic()
        while state.epoch <= epochs and not state.best.exhausted:
            # from the seed and the epoch alone, so that a resumed run needs no history of shuffles
            order = data.order("train", seed, state.epoch)
            started = time.monotonic() - state.seconds
            one_pass.train()
            while state.done < steps:
                index = order[state.done * batch_size : (state.done + 1) * batch_size]
                data.read_ahead("train", order, state.done * batch_size, len(index))
                x = fabric.to_device(data.present("train", index))
                beside = context[index].to(x.device)
                progressed = state.step / max(1, epochs * steps - 1)  # 0 at the first step, 1 at the last
                for group, rate in zip(bare.param_groups, rates, strict=True):
                    group["lr"] = rate * _factor(schedule, progressed)

                began = time.monotonic()
                total, log, usage = one_pass(x, beside.given, progressed, n)
                fabric.backward(total)
                if compiling and len(x) == whole:  # that was done in this step, and is no part of the time of an epoch
                    compiling, compile_seconds = False, time.monotonic() - began
                    started += compile_seconds
                    show.say(f"compiled in {compile_seconds:.1f} s")
                if state.step == 0:
                    check_gradients(model, objective)
                if clip is not None:
                    fabric.strategy.precision.unscale_gradients(bare)
                    for own in groups:  # each by itself: a critic's slope says nothing about the model's
                        nn.utils.clip_grad_norm_(own, clip)
                skipped = not_finite(parameters)
                if not scaled:
                    bare.found_inf = skipped  # type: ignore[attr-defined]  # read by the fused update
                stepping.step()
                stepping.zero_grad()

                state.sums.add({**log, "skipped": skipped}, usage)
                state.done += 1
                state.step += 1
                state.seconds = time.monotonic() - started
                seen = min(state.done * batch_size, n)
                show.step(state.epoch, state.done, partial(state.sums.means, seen), seen / state.seconds)
                if run is not None and (stop.is_set() or time.monotonic() - saved_at >= checkpoint_seconds):
                    state.save(run)
                    saved_at = time.monotonic()
                if stop.is_set():
                    raise KeyboardInterrupt(_how_to_resume(state, steps, run))

            skipped_steps = int(state.sums["skipped"])
            state.seconds = time.monotonic() - started  # once more, now that the device has finished
            if skipped_steps == steps and not scaled:
                raise ValueError(
                    f"all {steps} steps of epoch {state.epoch} gave gradients that are not finite, so nothing was learned; "
                    "try a smaller learning rate, or clip"
                )
            valid = None
            if "valid" in data.splits:
                batches = data.batches("valid", VALID_BATCH) if held is None else held.split(VALID_BATCH)
                valid = _validate(one_pass, map(fabric.to_device, batches), data.context("valid"), n, stop)
            if stop.is_set():
                if run is not None:
                    state.save(run)
                raise KeyboardInterrupt(_how_to_resume(state, steps, run))
            train_means = state.sums.means(n)
            _check_sane(state, valid, train_means, skipped_steps > steps / 2)
            record = {
                "epoch": state.epoch,
                "step": state.step,
                "train": train_means,
                "valid": valid,
                "rate_estimator": rate_estimator,
                "learning_rate": bare.param_groups[0]["lr"],
                "skipped_steps": skipped_steps,
                "seconds": round(state.seconds, 3),
                "examples_per_second": round(n / state.seconds, 1),
                **({"compile_seconds": round(compile_seconds, 3)} if compile else {}),
            }
            compile_seconds = 0.0
            state.best.see(state.epoch, valid["loss"] if valid else None, model)
            state.close_epoch(record)
            show.epoch(record)
            warn_of_collapse(record, epochs)
            if run is not None:
                run.write_metrics(state.records)
        if run is not None:
            state.save(run)
    if state.best.weights:
        model.load_state_dict(state.best.weights)
    one_pass.eval()
    return History(state.records, state.best.epoch, run.path if run else None)


@torch.no_grad()
def _validate(
    one_pass: nn.Module, batches: Iterable[Tensor], context: Context, examples: int, stop: threading.Event
) -> dict[str, float | None]:
    """Means over the validation split, with every schedule at its end and the same noise after every epoch."""
    sums, seen = Sums(next(one_pass.parameters()).device), 0
    one_pass.eval()
    with seeded(0):
        for x in batches:
            if stop.is_set():  # the result will not be used: a resumed run validates again
                return {}
            beside = context[seen : seen + len(x)].to(x.device)
            _, log, usage = one_pass(x, beside.given, 1.0, examples)
            sums.add(log, usage)
            seen += len(x)
    return sums.means(seen)


@contextmanager
def _nothing_left_of_a_failure(run: Run, state: TrainingState) -> Iterator[None]:
    """Take the run folder back where training fails, other than by being interrupted, before it has finished an epoch."""
    try:
        yield
    except Exception:
        if not state.records:
            run.abandon()
        raise


def _check_sane(
    state: TrainingState,
    valid: Mapping[str, float | None] | None,
    train: Mapping[str, float | None],
    mostly_skipped: bool,
) -> None:
    """Refuse to go on, or to end well, where nothing finite was ever learned."""
    if state.best.weights:
        return
    measured = train["loss"] if valid is None else valid["loss"]
    if measured is None and (valid is not None or mostly_skipped):
        raise ValueError(
            f"training has diverged: after epoch {state.epoch} the loss is not finite; try a smaller learning rate, "
            "clip, or data on a smaller scale"
        )


def _factor(schedule: Schedule, progress: float) -> float:
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0


def _how_to_resume(state: TrainingState, steps: int, run: Run | None) -> str:
    where = f"stopped in epoch {state.epoch} after {state.done} of {steps} steps"
    if run is None:
        return f"{where}; nothing was saved, since no run folder was given (out=)"
    return f"{where}; saved in {run.path}; go on with: lowerbound train --resume --out {shlex.quote(str(run.path))}"


def check_settings(settings: Mapping[str, Any], data: Dataset) -> None:
    """Refuse arguments of :func:`fit` that are out of range, on these data and this machine.

    Raises:
        ValueError: which, and what would be in range.
    """
    for name in ("epochs", "batch_size", "seed", "patience"):
        if not isinstance(settings[name], int) and not (name == "patience" and settings[name] is None):
            raise TypeError(f"{name} is {settings[name]!r}: it must be a whole number")
    for name in ("epochs", "batch_size"):
        if settings[name] < 1:
            raise ValueError(f"{name} is {settings[name]}: it must be at least 1")
    if not 0 < settings["learning_rate"] < math.inf:
        raise ValueError(f"learning_rate is {settings['learning_rate']}: it must be a positive number")
    if settings["clip"] is not None and not settings["clip"] > 0:
        raise ValueError(f"clip is {settings['clip']}: it must be a positive number, or None")
    if not 0 <= settings["seed"] < 2**63:
        raise ValueError(f"seed is {settings['seed']}: it must be at least 0 and below 2**63")
    if not (isinstance(settings["checkpoint_seconds"], (int, float)) and settings["checkpoint_seconds"] >= 0):
        raise ValueError(f"checkpoint_seconds is {settings['checkpoint_seconds']!r}: it must be a number, at least 0")
    for name, valid in (("optimizer", OptimizerName), ("schedule", Schedule), ("precision", Precision)):
        if settings[name] not in get_args(valid):
            raise ValueError(unknown(name, str(settings[name]), get_args(valid)))
    if "train" not in data.splits:
        raise ValueError(f"there is no split train to train on: {data}")
    if settings["patience"] is not None:
        if settings["patience"] < 1:
            raise ValueError(f"patience is {settings['patience']}: it must be at least 1, or None")
        if "valid" not in data.splits:
            raise ValueError("early stopping (patience) needs a validation split, and these data have none")
    device = find_device(settings["device"])
    if settings["precision"] == "16-mixed" and device.type == "cpu":
        raise ValueError("precision '16-mixed' needs a GPU; on a CPU use 'bf16-mixed' or '32-true'")
    if settings["precision"] == "64-true" and device.type == "mps":
        raise ValueError("precision '64-true' is not there on mps; use device 'cpu', or precision '32-true'")
    if (
        settings["precision"] == "bf16-mixed"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise ValueError(f"precision 'bf16-mixed' is not there on {device}; use '16-mixed' or '32-true'")
    if not isinstance(settings["compile"], bool):
        raise TypeError(f"compile is {settings['compile']!r}: it must be True or False")
    if settings["compile"]:
        check_compiler(device)


def _fabric(device: str, precision: Precision) -> Any:
    from lightning_fabric import Fabric  # 1.5 s, which only training should pay
    from lightning_fabric.plugins.precision import MixedPrecision

    class InputsAsTheyAre(MixedPrecision):
        """Half precision inside the networks only: data that are rounded before they are scored are other data."""

        def convert_input(self, data: Any) -> Any:
            return data

    place = find_device(device)
    devices = 1 if place.index is None else [place.index]
    if precision not in ("bf16-mixed", "16-mixed"):
        return Fabric(accelerator=place.type, devices=devices, precision=precision)
    return Fabric(accelerator=place.type, devices=devices, plugins=InputsAsTheyAre(precision, place.type))


def _config(model: Model, objective: Objective, data: Dataset, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The complete, resolved configuration of a run."""
    card = {"name": data.name, **data.options, "sha256": data.sha256}
    card |= {"event_shape": list(data.event_shape), "range": list(data.range)}
    card |= {} if data.columns is None else {"columns": list(data.columns)}
    parts = {**describe_model(model), "objective": describe(objective, "objective")}
    if foreign := sorted(foreign_packages(parts)):
        complete(parts, trust=foreign)  # what could not be loaded again is refused before it is trained
        warnings.warn(
            f"the model has parts from {', '.join(foreign)}; loading the run will ask for trust={foreign} (--trust)",
            stacklevel=3,
        )
    plain = {key: value.item() if isinstance(value, np.generic) else value for key, value in settings.items()}
    return {"data": card, **listed(parts), **plain}


def _check_same(run: Run, config: Mapping[str, Any]) -> None:
    """Refuse to resume a run with other data or another configuration."""
    kept = run.config()
    kept.pop("format")
    before, now = _flat(_untold(kept, config)), _flat(config)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        told = "; ".join(f"{key}: {before.get(key)!r} then, {now.get(key)!r} now" for key in changed[:3])
        raise ValueError(f"{run.path} cannot be resumed with other data or settings ({told}); use a new folder")


def _untold(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration with what it does not say, because a later version added it: the default, which it then was.

    Names of classes and columns follow from the data, whose checksum is compared.
    """
    parts = listed(complete(before, trust=sorted(foreign_packages(now))))
    of_data = {key: now["data"][key] for key in ("classes", "columns") if key in now["data"]}
    given = {**_defaults(load), **of_data, **before["data"]}
    told = {key: given[key] for key in {**before["data"], **now["data"]} if key in given}
    return {**{key: own for key, own in _defaults(fit).items() if key in now}, **before, **parts, "data": told}


def _defaults(function: Callable[..., Any]) -> dict[str, Any]:
    return {name: own.default for name, own in inspect.signature(function).parameters.items()}


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        own = list(value) if isinstance(value, tuple) else value  # as a file holds it
        flat |= _flat(own, f"{prefix}{key}.") if isinstance(own, Mapping) else {prefix + key: own}
    return flat
