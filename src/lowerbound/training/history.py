"""What became of a training, epoch by epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


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
