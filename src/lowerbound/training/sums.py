"""Running sums over the examples of an epoch, from which its means are made."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lowerbound.codebook import perplexity
from lowerbound.parallel.processes import Processes

# steps whose sums are added at once: few arrays are kept, and few operations a step are left
WAITING = 16


class Sums:
    """Sums over the examples of an epoch, kept on the device so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen = 0  # examples, where they are counted
        self._totals: dict[str, Tensor] = {}
        self._waiting: list[dict[str, Tensor]] = []

    def add(
        self,
        values: Mapping[str, Tensor],
        usage: Mapping[str, Tensor] | None = None,
        examples: int = 0,
    ) -> None:
        """Add quantities of examples, each (B,) or (), and how often each code of a latent was
        used, each (codes,).
        """
        self.seen += examples
        self._waiting.append({name: value.detach() for name, value in values.items()})
        for name, counts in (usage or {}).items():
            self._totals[name] = (
                self._totals[name] + counts if name in self._totals else counts.clone()
            )
        if len(self._waiting) >= WAITING:
            self._settle()

    @property
    def totals(self) -> dict[str, Tensor]:
        """The sum of each quantity, (), in double precision where the device has it, and of the
        usage of codes, (codes,).
        """
        self._settle()
        return self._totals

    @totals.setter
    def totals(self, totals: dict[str, Tensor]) -> None:
        self._totals, self._waiting = totals, []

    def _settle(self) -> None:
        """Add what waits: of many steps at once, since a call costs more than the few numbers of
        one.
        """
        waiting, self._waiting = self._waiting, []
        precision = torch.float32 if self.device.type == "mps" else torch.float64
        for name in dict.fromkeys(name for step in waiting for name in step):
            values = [step[name] for step in waiting if name in step]
            if len({value.shape for value in values}) == 1:
                sums = torch.stack(values).reshape(len(values), -1).sum(1, dtype=precision)
            else:
                sums = torch.stack([value.sum(dtype=precision) for value in values])
            if name in self._totals:
                sums = torch.cat([self._totals[name][None], sums])
            # one after the other, so that the last bit does not depend on when this was called
            self._totals[name] = sums.cumsum(0)[-1].clone()

    def collect(self, world: Processes) -> Sums:
        """The sums over all processes; what is kept is all in the first from then on, so that it
        can be saved.
        """
        if world.size == 1:
            return self
        whole = Sums(self.device)
        whole.totals = {name: total.clone() for name, total in self.totals.items()}
        scalars = [name for name, total in whole.totals.items() if not total.ndim]
        packed = torch.stack([whole.totals[name].double() for name in scalars])
        seen = torch.tensor(self.seen)
        world.add([packed, seen, *(total for total in whole.totals.values() if total.ndim)])
        whole.totals |= dict(zip(scalars, packed, strict=True))
        self.totals = {
            name: total if world.is_first else torch.zeros_like(total)
            for name, total in whole.totals.items()
        }
        self.seen = int(seen) if world.is_first else 0
        return whole

    def __getitem__(self, name: str) -> float:
        return float(self.totals[name])

    def means(self, n: int) -> dict[str, float | None]:
        """Means over n examples, by the names of metrics.jsonl; None where there is no finite one;
        no count of steps.

        ``elbo`` and ``distortion`` are always named, and are None where the score is no
        log-density. Of the usage of codes there is the perplexity over all n, and the number of
        codes that occurred.
        """
        means = {
            name: float(total) / n
            for name, total in self.totals.items()
            if name != "skipped" and not total.ndim
        }
        for name, total in self.totals.items():
            if total.ndim:
                means |= {
                    f"{name}_perplexity": perplexity(total),
                    f"{name}_used": float((total > 0).sum()),
                }
        named = {
            name: means.pop(name, None) for name in ("loss", "elbo", "rate", "distortion")
        } | means
        return {k: v if v is not None and math.isfinite(v) else None for k, v in named.items()}
