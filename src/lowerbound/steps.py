"""A training step on a batch: draw, objective, gradients, clipping, update; one after the other, or all as one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lowerbound.compiled import CompiledStep
from lowerbound.noise import at_work
from lowerbound.objective import Objective
from lowerbound.passes import check_gradients, not_finite
from lowerbound.processes import Processes
from lowerbound.roles import Context
from lowerbound.seeding import random_state, set_random_state
from lowerbound.shards import pieces
from lowerbound.state import Sums

Fetch = Callable[[Tensor], tuple[Tensor, Context]]
"""The training examples at some indices (b,), (b, *X), with what is known beside them, on the device."""


class TrainingStep(Protocol):
    """What the loop repeats."""

    def __call__(self, index: Tensor, progress: float, sums: Sums) -> None:
        """Take the examples at the indices (B,), update every parameter once, and add what is logged to the sums.

        Where a gradient is not finite the update is left out, and ``skipped`` is counted.
        """


class PieceByPiece:
    """A step that goes through its parts one after the other, in as many pieces of the batch as is asked for.

    Args:
        fabric: what goes backward.
        one_pass: model and objective, as Fabric has wrapped them.
        stepping: the optimiser, as Fabric has wrapped it.
        optimizer: the same, bare.
        groups: parameters whose gradients are clipped together.
        clip: the largest norm of those of a group; None leaves them.
        model: whose gradients are looked for at the first step.
        objective: whose too, and how many draws it takes.
        fetch: the examples.
        examples: how many there are.
        world: the processes that share each batch.
        accumulate: pieces of each process.
        is_scaled: whether a scaler of gradients decides which steps are taken.
    """

    def __init__(
        self,
        fabric: Any,
        one_pass: Any,
        stepping: Any,
        optimizer: torch.optim.Adam,
        groups: Sequence[Sequence[nn.Parameter]],
        clip: float | None,
        model: nn.Module,
        objective: Objective,
        fetch: Fetch,
        examples: int,
        world: Processes,
        accumulate: int,
        is_scaled: bool,
    ) -> None:
        self.fabric, self.one_pass, self.stepping, self.optimizer = fabric, one_pass, stepping, optimizer
        self.groups, self.clip, self.model, self.objective = groups, clip, model, objective
        self.fetch, self.examples = fetch, examples
        self.world, self.accumulate, self.is_scaled = world, accumulate, is_scaled
        self.parameters = [p for group in groups for p in group]
        self.is_first = True

    def __call__(self, index: Tensor, progress: float, sums: Sums) -> None:
        """As :class:`TrainingStep` says."""
        shards = pieces(len(index), self.world, self.accumulate)
        before = random_state() if self.accumulate > 1 else {}
        for shard in shards:
            if shard is not shards[0]:
                set_random_state(before)  # the noise of the whole batch once more, for other rows of it
            several = self.world.size > 1
            with nullcontext() if shard.is_last else self.fabric.no_backward_sync(self.one_pass, several):
                with at_work(shard, self.objective.samples):
                    x, beside = self.fetch(index[shard.rows])
                    total, log, usage = self.one_pass(x, beside.given, progress, self.examples)
                self.fabric.backward(total)
            sums.add(shard.counted(log), shard.counted(usage), 0 if shard.is_spare else len(x))
        if self.is_first:
            received = {id(p) for p in self.parameters if p.grad is not None}
            check_gradients(self.model, self.objective, received)
            self.is_first = False
        if self.clip is not None:
            self.fabric.strategy.precision.unscale_gradients(self.optimizer)
            for own in self.groups:  # each by itself: a critic's slope says nothing about the model's
                nn.utils.clip_grad_norm_(own, self.clip)
        skipped = not_finite(p.grad for p in self.parameters if p.grad is not None)
        if not self.is_scaled:
            self.optimizer.found_inf = skipped  # type: ignore[attr-defined]  # read by the fused update
        self.stepping.step()
        self.stepping.zero_grad()
        sums.add({"skipped": skipped if self.world.is_first else 0 * skipped})


class AtOnce:
    """A step that is one graph, for batches of one size.

    Args:
        compiled: the graph.
        precision: Fabric's, which says what networks compute in.
        fetch: the examples.
        examples: how many there are.
    """

    def __init__(self, compiled: CompiledStep, precision: Any, fetch: Fetch, examples: int) -> None:
        self.compiled, self.precision, self.fetch, self.examples = compiled, precision, fetch, examples

    def __call__(self, index: Tensor, progress: float, sums: Sums) -> None:
        """As :class:`TrainingStep` says."""
        x, beside = self.fetch(index)
        with self.precision.forward_context():
            x, given = self.precision.convert_input((x, beside.given))
            _, log, usage = self.compiled(x, given, progress, self.examples)
        sums.add(log, usage, len(x))
