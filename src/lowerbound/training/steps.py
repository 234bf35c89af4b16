"""A training step on a batch: draw, objective, gradients, clipping, update; one after the other, or
all as one graph.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import cache
from typing import Any, Protocol

from torch import Tensor, nn

from lowerbound.parallel.noise import at_work
from lowerbound.parallel.processes import Processes
from lowerbound.parallel.shards import pieces
from lowerbound.training.checkpoint import Sums
from lowerbound.training.compiled import CompiledStep
from lowerbound.training.passes import Fetch, Pass, check_gradients, not_finite, parameter_groups
from lowerbound.utils.seeding import random_state, set_random_state


class TrainingStep(Protocol):
    """What the loop repeats."""

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """Take the examples at the indices (B,), update every parameter once, and add what is
        logged to the sums.

        Where a gradient is not finite the update is left out, and ``skipped`` is counted. In the
        first step of a run every parameter must receive a gradient.
        """


class PieceByPiece:
    """A step that goes through its parts one after the other, in as many pieces of the batch as is
    asked for.

    Args:
        fabric: what goes backward.
        plain: the pass.
        one_pass: the same, as Fabric has wrapped it.
        stepping: the optimiser, as Fabric has wrapped it.
        clip: the largest norm of the gradient, of model and objective each by itself; None leaves
            it.
        fetch: the examples, on the device.
        examples: how many there are.
        world: the processes that share each batch.
        accumulate: pieces of each process.
        is_scaled: whether a scaler of gradients decides which steps are taken.
    """

    def __init__(
        self,
        fabric: Any,
        plain: Pass,
        one_pass: Any,
        stepping: Any,
        clip: float | None,
        fetch: Fetch,
        examples: int,
        world: Processes,
        accumulate: int,
        is_scaled: bool,
    ) -> None:
        self.fabric, self.plain, self.one_pass, self.stepping, self.clip = (
            fabric,
            plain,
            one_pass,
            stepping,
            clip,
        )
        self.fetch, self.examples, self.world = fetch, examples, world
        self.accumulate, self.is_scaled = accumulate, is_scaled
        self.shards = cache(lambda size: pieces(size, world, accumulate))
        self.groups = [group["params"] for group in parameter_groups(plain.model, plain.objective)]
        self.parameters = [p for group in self.groups for p in group]

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """As :class:`TrainingStep` says."""
        shards = self.shards(len(index))
        before = random_state() if self.accumulate > 1 else {}
        for shard in shards:
            if shard is not shards[0]:
                set_random_state(
                    before
                )  # the noise of the whole batch once more, for other rows of it
            several = self.world.size > 1
            with (
                nullcontext()
                if shard.is_last
                else self.fabric.no_backward_sync(self.one_pass, several)
            ):
                with at_work(shard, self.plain.objective.samples):
                    x, beside = self.fetch(index if shard.is_whole else index[shard.rows])
                    total, log, usage = self.one_pass(x, beside.given, progress, self.examples)
                self.fabric.backward(total)
            sums.add(shard.counted(log), shard.counted(usage), 0 if shard.is_spare else len(x))
        if is_first:
            received = {id(p) for p in self.parameters if p.grad is not None}
            check_gradients(self.plain.model, self.plain.objective, received)
        optimizer = self.stepping.optimizer
        if self.clip is not None:
            self.fabric.strategy.precision.unscale_gradients(optimizer)
            for (
                own
            ) in self.groups:  # each by itself: a critic's slope says nothing about the model's
                nn.utils.clip_grad_norm_(own, self.clip)
        skipped = not_finite(p.grad for p in self.parameters if p.grad is not None)
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
            compiled,
            precision,
            fetch,
            examples,
        )

    def __call__(self, index: Tensor, progress: float, sums: Sums, is_first: bool) -> None:
        """As :class:`TrainingStep` says; its graph is the same in every step, and so is what
        receives a gradient.
        """
        x, given = index, {}
        if self.fetch is not None:
            x, beside = self.fetch(index)
            x, given = self.precision.convert_input((x, beside.given))
        with self.precision.forward_context():
            log, usage = self.compiled(x, given, progress, self.examples)
        sums.add(log, usage, len(index))
