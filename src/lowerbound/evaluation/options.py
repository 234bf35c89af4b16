"""How a split is measured: the arguments of :func:`lowerbound.evaluate` that travel together,
checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lowerbound.utils.messages import unknown

Estimator = Literal["importance", "ais"]
Networks = Literal["32-true", "bf16-mixed"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of :func:`lowerbound.evaluate`, where they are explained and have their
    defaults.

    Raises:
        ValueError: a word that is unknown, a number below 1, or options that exclude each other;
            which, and what would work.
    """

    split: str
    samples: int
    batch_size: int
    seed: int
    curve: bool
    estimator: Estimator
    chains: int
    temperatures: int
    examples: int | None
    precision: Networks

    def __post_init__(self) -> None:
        for name, valid in (("estimator", Estimator), ("precision", Networks)):
            if getattr(self, name) not in get_args(valid):
                raise ValueError(unknown(name, str(getattr(self, name)), get_args(valid)))
        for name in ("batch_size", "samples", "examples"):
            count = getattr(self, name)
            if count is not None and (not isinstance(count, int) or count < 1):
                raise ValueError(f"{name} is {count}: it must be a whole number, at least 1")
        if self.curve and self.anneals:
            raise ValueError(
                "the curve over K is one of importance-weighted draws: leave it out, or "
                "estimator='ais'"
            )
        if self.rounds and self.anneals:
            raise ValueError(
                "annealing follows gradients, for which bfloat16 is too coarse: precision 32-true, "
                "or importance"
            )

    @property
    def anneals(self) -> bool:
        """Whether log p(x) is estimated by annealed importance sampling."""
        return self.estimator == "ais"

    @property
    def rounds(self) -> bool:
        """Whether networks are worked out in bfloat16."""
        return self.precision == "bf16-mixed"
