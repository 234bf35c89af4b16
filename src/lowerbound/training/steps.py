"""A training step on a batch: draw, objective, gradients, clipping, update; one after the other, or
all as one graph.
"""

from __future__ import annotations

import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowerbound.data.dataset import Dataset
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.noise import at_work
from lowerbound.parallel.processes import Processes
from lowerbound.parallel.shards import pieces
from lowerbound.roles import Context
from lowerbound.training.checkpoint import TrainingState
from lowerbound.training.compiled import (
    TRACES_GRADIENTS,
    Compiled,
    CompiledStep,
    fits_one_graph,
    tracing_steps,
)
from lowerbound.training.optimizers import make_optimizer
from lowerbound.training.passes import (
    Fetch,
    GatheringPass,
    Pass,
    check_gradients,
    not_finite,
    trained,
)
from lowerbound.training.settings import Settings
from lowerbound.training.sums import Sums
from lowerbound.utils.seeding import random_state, set_random_state


class TrainingStep(Protocol):
    """What the loop repeats."""

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """Take the examples at the indices (B,), update every parameter once, and add what is
        logged to the sums.

        Where a gradient is not finite the update is left out, and ``skipped`` is counted. In the
        first step of a run every parameter must receive a gradient.
        """


class Steps:
    """The steps of one training: the optimiser, its schedule, and the way a batch is worked on.

    Args:
        model: what is trained.
        objective: what is minimised.
        data: whose train split is trained on.
        settings: how.
        fabric: places tensors, sets the precision, and goes backward.
        world: the processes that share each batch.

    Attributes:
        per_epoch: how many steps an epoch has.
        optimizer: of model and objective.
        one_pass: model and objective as Fabric has wrapped them.
        compile_seconds: what compiling took, in the step in which it was done; 0 before.
    """

    def __init__(
        self,
        model: Model,
        objective: Objective,
        data: Dataset,
        settings: Settings,
        fabric: Any,
        world: Processes,
    ) -> None:
        self.settings = settings
        examples, device = len(data["train"]), fabric.device
        self.per_epoch = math.ceil(examples / settings.batch_size)
        self.full = min(settings.batch_size, examples)  # examples of a batch that may be compiled
        # fused Adam updates in one pass over memory, and can be told on the device to skip a step;
        # in 16-bit training the scaler of gradients decides that, and clips gradients of an
        # optimiser that is not fused only
        self.optimizer = make_optimizer(
            settings.optimizer, model, objective, settings.learning_rate,
            fused=not settings.is_scaled, weight_decay=settings.weight_decay,
        )  # fmt: skip
        # an objective may ask for a rate of its own
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        plain = Pass(model, objective)
        # one graph where nobody else has a say between gradients and update
        self.is_one_graph = (
            settings.compile and TRACES_GRADIENTS and world.size == 1
            and not settings.is_scaled and fits_one_graph(plain, self.optimizer)
        )  # fmt: skip
        wrapped: nn.Module = plain
        if settings.compile and not self.is_one_graph:
            share = pieces(self.full, world)[0]
            wrapped = Compiled(plain, share.stop - share.start)
        self.one_pass, stepping = fabric.setup(wrapped, self.optimizer)
        stepping.zero_grad()  # what was left before this training began
        context = data.context("train")

        def present(rows: Tensor) -> tuple[Tensor, Context]:
            return data.present("train", rows), context[rows]

        def fetch(rows: Tensor) -> tuple[Tensor, Context]:
            x, known = present(rows)
            return x.to(device), known.to(device)

        self.by_piece = PieceByPiece(
            fabric, plain, self.one_pass, stepping, fetch, examples, settings, world
        )
        self.at_once: AtOnce | None = None
        if self.is_one_graph:
            assert isinstance(self.optimizer, torch.optim.Adam)  # as fits_one_graph has found
            gathers = device.type == "cpu" and data.is_traced
            graphed = GatheringPass(model, objective, present) if gathers else plain
            compiled = CompiledStep(graphed, self.optimizer, settings.clip, device)
            precision = fabric.strategy.precision
            self.at_once = AtOnce(compiled, precision, None if gathers else fetch, examples)
        self.compile_seconds = 0.0
        self._is_compiling = settings.compile

    def tracing(self) -> AbstractContextManager[None]:
        """A block around all steps, in which torch may trace them where they are graphs."""
        return tracing_steps() if self.is_one_graph else nullcontext()

    def take(self, index: Tensor, state: TrainingState) -> None:
        """Take a step on the examples at the indices (B,), and count it."""
        last = max(1, self.settings.epochs * self.per_epoch - 1)
        progress = state.step / last  # 0 at the first step, 1 at the last
        factor = self.settings.rate(progress)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        is_full = len(index) == self.full
        step = self.at_once if is_full and self.at_once is not None else self.by_piece
        began = time.monotonic()
        step(index, progress, state.sums, state.step == 0)
        self.compile_seconds = 0.0
        if self._is_compiling and is_full:  # it was done in this step
            self._is_compiling, self.compile_seconds = False, time.monotonic() - began
        state.count_step()


class PieceByPiece:
    """A step that goes through its parts one after the other, in as many pieces of the batch as is
    asked for.

    Args:
        fabric: what goes backward.
        plain: the pass.
        one_pass: the same, as Fabric has wrapped it.
        stepping: the optimiser, as Fabric has wrapped it.
        fetch: the examples, on the device.
        examples: how many there are.
        settings: among them the largest norm of the gradient, of model and objective each by
            itself, and the pieces of each process.
        world: the processes that share each batch.
    """

    def __init__(
        self,
        fabric: Any,
        plain: Pass,
        one_pass: Any,
        stepping: Any,
        fetch: Fetch,
        examples: int,
        settings: Settings,
        world: Processes,
    ) -> None:
        self.fabric, self.plain, self.one_pass, self.stepping = fabric, plain, one_pass, stepping
        self.fetch, self.examples, self.world = fetch, examples, world
        self.clip, self.accumulate = settings.clip, settings.accumulate
        self.is_scaled = settings.is_scaled
        self.is_theirs = not isinstance(settings.optimizer, str)
        self.shards = cache(lambda size: pieces(size, world, settings.accumulate))
        self.groups = [trained(plain.model), trained(plain.objective)]
        self.parameters = [p for group in self.groups for p in group]

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """As :class:`TrainingStep` says."""
        shards = self.shards(len(index))
        before = random_state() if self.accumulate > 1 else {}
        for shard in shards:
            if shard is not shards[0]:
                # the noise of the whole batch once more, for other rows of it
                set_random_state(before)
            several = self.world.size > 1
            with (
                nullcontext()
                if shard.is_last
                else self.fabric.no_backward_sync(self.one_pass, several)
            ):
                with at_work(shard, self.plain.objective.samples):
                    x, context = self.fetch(index if shard.is_whole else index[shard.rows])
                    total, log, usage = self.one_pass(x, context.given, progress, self.examples)
                self.fabric.backward(total)
            sums.add(shard.counted(log), shard.counted(usage), 0 if shard.is_spare else len(x))
        if is_first:
            received = {id(p) for p in self.parameters if p.grad is not None}
            check_gradients(self.plain.model, self.plain.objective, received)
        optimizer = self.stepping.optimizer
        if self.clip is not None:
            self.fabric.strategy.precision.unscale_gradients(optimizer)
            # each by itself: a critic's slope says nothing of the model's
            for group in self.groups:
                nn.utils.clip_grad_norm_(group, self.clip)
        skipped = not_finite(p.grad for p in self.parameters if p.grad is not None)
        if self.is_theirs and not self.is_scaled:
            if not skipped:  # an optimiser of the user's own is not told to skip: this waits for it
                self.stepping.step()
        else:
            if not self.is_scaled:
                optimizer.found_inf = skipped  # read by the fused update
            self.stepping.step()
        for p in self.parameters:  # the optimiser's own way looks for more to do
            p.grad = None
        sums.add({"skipped": skipped if self.world.is_first else 0 * skipped})


class AtOnce:
    """A step that is one graph, for batches of one size.

    Args:
        compiled: the graph.
        precision: Fabric's, which says what networks compute in.
        fetch: the examples, on the device; None where the graph gathers them itself.
        examples: how many there are.
    """

    def __init__(
        self, compiled: CompiledStep, precision: Any, fetch: Fetch | None, examples: int
    ) -> None:
        self.compiled, self.precision, self.fetch, self.examples = (
            compiled, precision, fetch, examples
        )  # fmt: skip

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """As :class:`TrainingStep` says; its graph is the same in every step, and so is what
        receives a gradient.
        """
        x, known = index, {}
        if self.fetch is not None:
            x, context = self.fetch(index)
            x, known = self.precision.convert_input((x, context.given))
        with self.precision.forward_context():
            log, usage = self.compiled(x, known, progress, self.examples)
        sums.add(log, usage, len(index))
