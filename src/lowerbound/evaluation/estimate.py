"""Units, and the only form in which a number is reported: value, standard error, number of
examples, unit.

For values v_1..v_n of independent examples, value = mean(v) and stderr = sd(v) / sqrt(n), with the
n - 1 divisor. The standard error is over examples; the bias of a K-sample bound is another matter
and is said separately.

Information is in nats; bits per dimension, nats / (D log 2), is converted here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MOST_DIGITS = 6  # beyond them float32 rounds
NORMAL_95 = 1.96  # standard deviations to each side that hold 95 % of a normal distribution


@dataclass(frozen=True)
class Estimate:
    """A mean over examples with its standard error.

    Args:
        value: the mean.
        stderr: its standard error over the examples; nan when n = 1, where none can be given.
        n: number of examples.
        unit: "nats" unless said.

    Example:
        >>> import torch
        >>> Estimate.over(torch.tensor([1.0, 2.0, 3.0]))
        Estimate(value=2.0, stderr=0.5773502691896258, n=3, unit='nats')
        >>> print(Estimate(86.8123, 0.3142, 10000, "nats"))
        86.81 ± 0.31 nats (n = 10,000)
    """

    value: float
    stderr: float
    n: int
    unit: str = "nats"

    @classmethod
    def over(cls, values: Tensor, unit: str = "nats") -> Estimate:
        """The estimate from one value an example, shape (n,); accumulated in float64.

        Raises:
            ValueError: there is no example.
        """
        n = values.numel()
        if n == 0:
            raise ValueError("an estimate needs at least one example, and there is none")
        values = values.detach().cpu().double()
        stderr = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
        return cls(float(values.mean()), stderr, n, unit)

    @classmethod
    def ratio(cls, values: Tensor, counts: Tensor, unit: str = "nats") -> Estimate:
        """Sum of values over sum of counts, one of each an example, (n,): a mean over what is
        counted.

        Its standard error is that of the residuals v_i - r c_i (the ratio estimator of survey
        sampling), so that it is right where examples count for different amounts.

        Example:
            >>> import torch
            >>> Estimate.ratio(torch.tensor([4.0, 2.0]), torch.tensor([2.0, 1.0])).short
            '2.0000 ± 0.0000'
        """
        values, counts = values.detach().cpu().double(), counts.detach().cpu().double()
        value = float(values.sum() / counts.sum())
        residuals = cls.over((values - value * counts) / counts.mean(), unit)
        return cls(value, residuals.stderr, residuals.n, unit)

    def times(self, factor: float, unit: str) -> Estimate:
        """The same estimate in another unit; a negative factor flips the sign of the value, never
        of the error.
        """
        return Estimate(factor * self.value, abs(factor) * self.stderr, self.n, unit)

    def bits_per_dim(self, dimensions: int) -> Estimate:
        """An estimate in nats per example as bits per dimension.

        Example:
            >>> import math
        >>> round(Estimate(math.log(2) * 10, 0.0, 5, "nats").bits_per_dim(10).value, 6)
        1.0
        """
        if self.unit != "nats":
            raise ValueError(
                f"bits per dimension are converted from nats, and this estimate is in {self.unit}"
            )
        return self.times(1.0 / (dimensions * math.log(2.0)), "bits per dimension")

    def as_json(self) -> dict[str, Any]:
        """value, stderr, n, unit, with None where a number is not finite (JSON has no nan)."""
        finite = {
            k: v if math.isfinite(v) else None
            for k, v in (("value", self.value), ("stderr", self.stderr))
        }
        return {**finite, "n": self.n, "unit": self.unit}

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval, value ∓ 1.96 stderr: how often it holds is tested
        (docs/correctness.md).

        It rests on the central limit theorem, so on some dozens of examples at least, and says
        nothing of a bias.

        Example:
            >>> Estimate(10.0, 0.5, 100).interval
            (9.02, 10.98)
        """
        return self.value - NORMAL_95 * self.stderr, self.value + NORMAL_95 * self.stderr

    @property
    def short(self) -> str:
        """Value and standard error alone.

        Example:
            >>> Estimate(86.8123, 0.3142, 10000).short
            '86.81 ± 0.31'
        """
        # two significant digits of the error decide how many digits of the value mean anything
        known = math.isfinite(self.stderr) and self.stderr > 0
        digits = min(max(0, 1 - math.floor(math.log10(self.stderr))), MOST_DIGITS) if known else 4
        error = f"{self.stderr:.{digits}f}" if math.isfinite(self.stderr) else "unknown"
        return f"{self.value:.{digits}f} ± {error}"

    def __str__(self) -> str:
        return f"{self.short} {self.unit} (n = {self.n:,})"
