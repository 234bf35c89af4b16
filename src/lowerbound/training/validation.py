"""Validation: means over the validation split after each epoch, by which weights are chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.dataset import Dataset
from lowerbound.objective import Objective
from lowerbound.parallel.noise import at_work
from lowerbound.parallel.processes import Processes
from lowerbound.parallel.shards import pieces
from lowerbound.training.sums import Sums
from lowerbound.utils.seeding import seeded

EXAMPLES_AT_ONCE = 1000  # there are no gradients to hold


class Validation:
    """Means over the validation split, with every schedule at its end and the same noise after
    every epoch.

    Args:
        one_pass: model and objective as Fabric has wrapped them.
        objective: how many draws it asks for.
        data: with a split ``valid``, or without.
        fabric: places tensors.
        world: the processes that share each batch.
    """

    def __init__(
        self, one_pass: Any, objective: Objective, data: Dataset, fabric: Any, world: Processes
    ) -> None:
        self.one_pass, self.samples, self.data = one_pass, objective.samples, data
        self.fabric, self.world = fabric, world
        self.held: Tensor | None = None
        if "valid" in data.splits and not data.is_mapped:
            # in memory all are kept as they are seen; from a file they come again after every epoch
            self.held = fabric.to_device(data.examples("valid"))

    def __call__(self, stop: threading.Event) -> dict[str, float | None] | None:
        """The means; None without a validation split, and nothing in them where training is to
        stop: a resumed run validates again.
        """
        if "valid" not in self.data.splits:
            return None
        batches = (
            self.data.batches("valid", EXAMPLES_AT_ONCE)
            if self.held is None
            else self.held.split(EXAMPLES_AT_ONCE)
        )
        return self._means(map(self.fabric.to_device, batches), stop)

    @torch.no_grad()
    def _means(self, batches: Iterable[Tensor], stop: threading.Event) -> dict[str, float | None]:
        context, examples = self.data.context("valid"), len(self.data["train"])
        sums, seen = Sums(next(self.one_pass.parameters()).device), 0
        self.one_pass.eval()
        with seeded(0):
            for x in batches:
                if self.world.agree(stop.is_set())[0]:
                    return {}
                (shard,) = pieces(len(x), self.world)
                rows = context[seen : seen + len(x)][shard.rows].to(x.device)
                with at_work(shard, self.samples):
                    _, log, usage = self.one_pass(x[shard.rows], rows.given, 1.0, examples)
                sums.add(shard.counted(log), shard.counted(usage))
                seen += len(x)
        return sums.collect(self.world).means(seen)
