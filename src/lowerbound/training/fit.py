"""Training: one loop, read from top to bottom.

    for each epoch: for each batch: draw = model(x); loss = objective(draw); backward; clip; step

It runs on Lightning Fabric, which places the model on the device and sets the precision. Everything
random follows from the seed, and the state of the loop is committed to the run folder, so that a
run killed at any moment and resumed ends with the same weights, bit for bit, as one never
interrupted (same machine, torch and number of threads).
"""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import warn_of_collapse
from lowerbound.model import Model
from lowerbound.networks import MLP
from lowerbound.objective import Objective, check_parts
from lowerbound.parallel.fabric import Precision, make_fabric
from lowerbound.parallel.launch import is_orphan
from lowerbound.parallel.noise import at_work
from lowerbound.parallel.processes import Processes, Votes, join
from lowerbound.parallel.shards import check_in_step, pieces
from lowerbound.roles import Context
from lowerbound.runs.run import Run
from lowerbound.training.checkpoint import Best, Sums, TrainingState
from lowerbound.training.compiled import (
    TRACES_GRADIENTS,
    Compiled,
    CompiledStep,
    fits_one_graph,
    tracing_steps,
)
from lowerbound.training.configuration import (
    Schedule,
    check_all_gathered,
    check_pieces,
    check_same,
    check_settings,
    configuration,
)
from lowerbound.training.optimizers import OptimizerName, make_optimizer
from lowerbound.training.passes import GatheringPass, Pass, check_draws, dry_run, prepare
from lowerbound.training.steps import AtOnce, PieceByPiece
from lowerbound.utils.allocator import retain_freed_memory
from lowerbound.utils.progress import Display
from lowerbound.utils.seeding import seeded
from lowerbound.utils.stopping import stop_requested

VALID_BATCH = 1000  # examples at a time in validation, where there are no gradients to hold


@dataclass(frozen=True)
class History:
    """What happened in training.

    Args:
        epochs: one mapping an epoch, as in metrics.jsonl.
        best_epoch: the epoch whose weights the model holds: the best on validation, or the last
            where there is none.
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
    devices: int | None = None,
    accumulate: int = 1,
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
        data: its train split is trained on; its valid split, where there is one, chooses the
            weights that are kept; its test split is not touched.
        epochs: passes over the training data.
        batch_size: examples a step; the last batch of an epoch may be smaller and counts in full.
        seed: of the order of examples and of every draw. It does not act on the model's initial
            weights, which exist already; on the command line the same seed sets those too.
        optimizer: "adam" (Kingma and Ba 2014, arXiv 1412.6980), or "muon" (Jordan et al. 2024),
            which takes orthogonal steps in the weights of layers and Adam's in all else
            (:mod:`lowerbound.training.optimizers`): fewer steps are needed, and each costs more, by
            hundreds of examples. An objective's own parameters are always Adam's.
        learning_rate: Adam's step size; a step of Muon has the same. An objective may ask for
            another one for its own parameters.
        schedule: of every learning rate over the run: "constant", "cosine" or "linear", which fall
            to zero.
        clip: largest norm of the gradient; None leaves it. An objective's own parameters are
            clipped by themselves. Long trainings by Muon want one, a few times the usual norm.
        patience: stop after so many epochs in a row without a better validation loss; None never
            stops early.
        device: "auto" takes a GPU if there is one; "cpu", "cuda", "cuda:1", "mps".
        precision: "32-true", "bf16-mixed", "16-mixed" (GPU only) or "64-true".
        compile: make one graph of a step, from the data to the optimiser's update, by
            ``torch.compile``: the same numbers up to rounding, sooner, after some seconds of
            compilation, which are told. Batches of another size than batch_size, in validation
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

    Returns:
        The metrics of every epoch. The model is in evaluation mode.

    Raises:
        ValueError: arguments out of range, data that do not fit the model, a device that is not
            there, parameters that receive no gradient, a folder that holds another run, resuming
            with other data or settings, or compiling without a compiler, or what cannot be made one
            graph.
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
        "devices": devices,
        "accumulate": accumulate,
        "checkpoint_seconds": checkpoint_seconds,
    }
    for name, value, kind in (
        ("model", model, Model),
        ("objective", objective, Objective),
        ("data", data, Dataset),
    ):
        if not isinstance(value, kind):
            given = (
                f"the class {value.__name__}: make an object of it"
                if isinstance(value, type)
                else type(value).__name__
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
            f"batch_size is 1, and {name} compares the examples of a batch with each other; take "
            "at least 2"
        )
    n = len(data["train"])
    if 1 in (batch_size, n % batch_size) and any(
        isinstance(own, MLP) and own.batch_norm for own in model.modules()
    ):
        raise ValueError(
            f"{n:,} examples in batches of {batch_size} leave one by itself, and batch "
            "normalisation compares the examples of a batch; choose another batch_size, or "
            "batch_norm false"
        )
    model.check_data(data)
    world = join()
    fabric = make_fabric(device, precision, world)
    here = fabric.device
    settings |= {"device": str(here), "devices": world.local_size}
    folder = out if isinstance(out, Run) or out is None else Run(out)
    run = folder if world.is_first else None
    config = world.broadcast(
        lambda: {} if run is None else configuration(model, objective, data, settings)
    )
    check_parts(objective, model)
    check_pieces(model, objective, accumulate, compile, world)
    rate_estimator = dry_run(model, objective, data)
    if world.size * accumulate > 1:
        check_draws(model, objective, data)

    with ExitStack() as stack:
        world.broadcast(lambda: _opened(stack, run, config, resume, overwrite))
        # fused Adam updates in one pass over memory, and can be told on the device to skip a step;
        # in 16-bit training the scaler of gradients decides that, and clips gradients of an
        # optimiser that is not fused only
        scaled = precision == "16-mixed"
        bare = make_optimizer(optimizer, model, objective, learning_rate, fused=not scaled)
        rates = [group["lr"] for group in bare.param_groups]  # an objective may ask for its own
        plain = Pass(model, objective)
        full = min(batch_size, n)  # examples of a batch that may be compiled
        # where nobody else has a say between gradients and update
        is_one_graph = (
            compile
            and TRACES_GRADIENTS
            and world.size == 1
            and not scaled
            and fits_one_graph(plain, bare)
        )
        share = pieces(full, world)[0]
        has_graph = compile and not is_one_graph
        one_pass, stepping = fabric.setup(
            Compiled(plain, share.stop - share.start) if has_graph else plain, bare
        )
        stepping.zero_grad()  # what was left before this training began
        context = data.context("train")

        def present(rows: Tensor) -> tuple[Tensor, Context]:
            return data.present("train", rows), context[rows]

        def fetch(rows: Tensor) -> tuple[Tensor, Context]:
            x, beside = present(rows)
            return x.to(here), beside.to(here)

        by_piece = PieceByPiece(
            fabric, plain, one_pass, stepping, clip, fetch, n, world, accumulate, scaled
        )
        at_once = None
        if is_one_graph:
            gathers = here.type == "cpu" and data.is_traced
            own = GatheringPass(model, objective, present) if gathers else plain
            compiled = CompiledStep(own, bare, clip, here)
            stack.enter_context(tracing_steps())
            at_once = AtOnce(compiled, fabric.strategy.precision, None if gathers else fetch, n)
        compiling, compile_seconds = compile, 0.0
        state = TrainingState(
            model, objective, bare, fabric.strategy.precision, Best(patience), here
        )
        if run is not None and not resume:
            stack.enter_context(_nothing_left_of_a_failure(run, state))
        stack.enter_context(world.watched())
        stack.enter_context(seeded(seed))
        stack.enter_context(retain_freed_memory())
        # a run that was killed before its first checkpoint begins anew
        checkpoint = world.broadcast(
            lambda: run.checkpoint() if run is not None and resume else None
        )
        differs = ""
        if checkpoint is None:
            prepare(model, data)
            world.copy_first(one_pass.state_dict().values())
            if run is not None:
                state.save(
                    run
                )  # the initial weights: a kill before the first checkpoint must not lose them
        elif folder is not None:
            differs = state.restore(checkpoint, folder.checkpoint_folder, world)
            state.sums.seen = (
                min(state.done * batch_size, len(data["train"])) if world.is_first else 0
            )

        steps = math.ceil(n / batch_size)
        # in memory all are kept as they are seen; from a file they come again after every epoch
        held = (
            fabric.to_device(data.examples("valid"))
            if "valid" in data.splits and not data.is_mapped
            else None
        )
        stop = stack.enter_context(stop_requested())
        show = stack.enter_context(
            Display(epochs, steps, progress and world.is_first, state.epoch - 1)
        )
        if differs:
            show.say(f"resumed under other conditions, so the last bits may differ: {differs}")
        saved_at, votes = time.monotonic(), Votes(world)
        while state.epoch <= epochs and not state.best.exhausted:
            # from the seed and the epoch alone, so that a resumed run needs no history of shuffles
            order = data.order("train", seed, state.epoch)
            started = time.monotonic() - state.seconds
            one_pass.train()
            batches = order.split(batch_size)
            while state.done < steps:
                index = batches[state.done]
                data.read_ahead("train", order, state.done * batch_size, len(index))
                progressed = state.step / max(
                    1, epochs * steps - 1
                )  # 0 at the first step, 1 at the last
                for group, rate in zip(bare.param_groups, rates, strict=True):
                    group["lr"] = rate * _factor(schedule, progressed)

                began = time.monotonic()
                is_full = len(index) == full
                step = at_once if is_full and at_once is not None else by_piece
                step(index, progressed, state.sums, state.step == 0)
                if (
                    compiling and is_full
                ):  # that was done in this step, and is no part of the time of an epoch
                    compiling, compile_seconds = False, time.monotonic() - began
                    started += compile_seconds
                    show.say(f"compiled in {compile_seconds:.1f} s")
                if state.step == 0:
                    check_all_gathered(objective, world)
                state.done += 1
                state.step += 1
                state.seconds = time.monotonic() - started
                seen = min(state.done * batch_size, n)
                means = partial(state.sums.means, max(1, state.sums.seen))  # those of this process
                show.step(state.epoch, state.done, means, seen / state.seconds)
                is_due = world.is_first and time.monotonic() - saved_at >= checkpoint_seconds
                stops, saves = votes.ask(stop.is_set() or (world.size > 1 and is_orphan()), is_due)
                if folder is not None and (stops or saves):
                    state.sums.collect(world)
                    if run is not None:
                        state.save(run)
                    saved_at = time.monotonic()
                if stops:
                    raise KeyboardInterrupt(_how_to_resume(state, steps, folder))

            check_in_step(world)
            sums = state.sums.collect(world)
            skipped_steps = int(sums["skipped"])
            state.seconds = (
                time.monotonic() - started
            )  # once more, now that the device has finished
            if skipped_steps == steps and not scaled:
                raise ValueError(
                    f"all {steps} steps of epoch {state.epoch} gave gradients that are not finite, "
                    "so nothing was learned; try a smaller learning rate, or clip"
                )
            valid = None
            if "valid" in data.splits:
                batches = (
                    data.batches("valid", VALID_BATCH) if held is None else held.split(VALID_BATCH)
                )
                valid = _validate(
                    one_pass,
                    objective.samples,
                    map(fabric.to_device, batches),
                    data.context("valid"),
                    n,
                    stop,
                    world,
                )
            if world.agree(stop.is_set())[0]:
                if run is not None:
                    state.save(run)
                raise KeyboardInterrupt(_how_to_resume(state, steps, folder))
            train_means = sums.means(n)
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
            if world.is_first:
                warn_of_collapse(record, epochs)
            if run is not None:
                run.write_metrics(state.records)
        if run is not None:
            state.save(run)
    if state.best.weights:
        model.load_state_dict(state.best.weights)
    one_pass.eval()
    return History(state.records, state.best.epoch, folder.path if folder else None)


@torch.no_grad()
def _validate(
    one_pass: nn.Module,
    samples: int,
    batches: Iterable[Tensor],
    context: Context,
    examples: int,
    stop: threading.Event,
    world: Processes,
) -> dict[str, float | None]:
    """Means over the validation split, with every schedule at its end and the same noise after
    every epoch.
    """
    sums, seen = Sums(next(one_pass.parameters()).device), 0
    one_pass.eval()
    with seeded(0):
        for x in batches:
            if world.agree(stop.is_set())[
                0
            ]:  # the result will not be used: a resumed run validates again
                return {}
            (shard,) = pieces(len(x), world)
            beside = context[seen : seen + len(x)][shard.rows].to(x.device)
            with at_work(shard, samples):
                _, log, usage = one_pass(x[shard.rows], beside.given, 1.0, examples)
            sums.add(shard.counted(log), shard.counted(usage))
            seen += len(x)
    return sums.collect(world).means(seen)


def _opened(
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


@contextmanager
def _nothing_left_of_a_failure(run: Run, state: TrainingState) -> Iterator[None]:
    """Take the run folder back where training fails, other than by being interrupted, before it has
    finished an epoch.
    """
    try:
        yield
    except ConnectionError:
        raise  # it was another process that failed: this one can go on from here
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
            f"training has diverged: after epoch {state.epoch} the loss is not finite; try a "
            "smaller learning rate, clip, or data on a smaller scale"
        )


def _factor(schedule: Schedule, progress: float) -> float:
    if schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0


def _how_to_resume(state: TrainingState, steps: int, run: Run | None) -> str:
    where = f"stopped in epoch {state.epoch} after {state.done} of {steps} steps"
    if run is None:
        return f"{where}; nothing was saved, since no run folder was given (out=)"
    command = f"lowerbound train --resume --out {shlex.quote(str(run.path))}"
    return f"{where}; saved in {run.path}; go on with: {command}"
