"""A mixture of discretised logistics over L grey levels {0, 1/(L-1), ..., 1}, with colour channels
coupled or without.

Levels are put on [-1, 1], t = 2 x - 1, with bins of half-width h = 1/(L-1) around them. A component
with location m and log-scale s gives the level t the logistic's mass in its bin, the first and the
last level taking the tails:

    P(t) = sigmoid(b) - sigmoid(a),    a = (t - h - m) e^-s, -inf at t = -1,    b = (t + h - m)
                                       e^-s, +inf at t = 1

and a mixture of C of them is p(x) = sum_c pi_c P_c(x) (Kingma et al. 2016, arXiv 1606.04934;
Salimans, Karpathy, Chen and Kingma 2017, arXiv 1701.05517). Where three channels are coupled, one
component is drawn for a pixel as a whole, and in it the location of green is linear in the red that
was drawn, and that of blue in red and green:

    p(r, g, b) = sum_c pi_c P(r; m_r) P(g; m_g + k_1 r) P(b; m_b + k_2 r + k_3 g),    r, g, b on
    [-1, 1]

The difference of two sigmoids cancels in the tails. Its logarithm is taken as a sum of terms that
do not:

    sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - e^(a - b))

is exact for all a < b, and b - a = 2 h e^-s is known without a subtraction. So no density in the
middle of the bin has to stand in for the mass where that is small, as it does in PixelCNN++.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.distributions.constraints import Constraint
from torch.nn.functional import logsigmoid

from lowerbound.supports import Levels

CHANNELS = 3  # red, green, blue: the first dimension of the event
# exp(15) bins to a scale, or a scale to bins: one level, or the first and the last, has all mass
LOG_SCALES = (-15.0, 15.0)


class DiscretizedLogisticMixture(Distribution):
    """Independent mixtures, one for each entry, or one for each pixel of three coupled channels.

    Without ``coupling``, a batch of scalars. With it, the event is (3,), and the batch is one of
    pixels.

    The mean and the variance are exact without coupling. With it, the location of green depends on
    a red that is random, and its expectation is a sum over all levels; so the mean of a coupled
    pixel is by conditional means: red's mean in the component stands in for red where green's
    location is taken, and both of theirs for blue's. Red's mean is exact, and the others are where
    a mean is linear in its location, away from the ends of the scale. The variance is not
    implemented.

    Args:
        logits: (..., C), log-weights of the components up to a constant.
        loc: (..., C), or (..., 3, C) with coupling, on [-1, 1], where no value is refused.
        log_scale: the same shape; limited to [-15, 15].
        levels: L.
        coupling: (..., 3, C), the coefficients k_1 (green on red), k_2 (blue on red) and k_3 (blue
            on green); None for none.

    Example:
        >>> zeros = torch.zeros(5)
        >>> px = DiscretizedLogisticMixture(zeros, zeros, zeros, levels=17)
        >>> px.mean, px.log_prob(torch.arange(17) / 16).exp().sum()
        (tensor(0.5000), tensor(1.))
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        levels: int,
        coupling: Tensor | None = None,
    ) -> None:
        self.log_weights = torch.log_softmax(logits, -1)
        self.loc = loc
        self.log_scale = log_scale.clamp(*LOG_SCALES)
        self.levels = levels
        self.coupling = coupling
        event = torch.Size() if coupling is None else torch.Size((CHANNELS,))
        super().__init__(logits.shape[:-1], event, validate_args=False)

    @property
    def support(self) -> Constraint:
        return Levels(self.levels)

    @property
    def _grid(self) -> Tensor:
        """The levels on [-1, 1], (L,)."""
        return torch.linspace(-1, 1, self.levels, dtype=self.loc.dtype, device=self.loc.device)

    def log_prob(self, value: Tensor) -> Tensor:
        t = (2 * value - 1)[..., None]  # (..., 1) or (..., 3, 1), against components
        if self.coupling is None:
            log_p = self._log_mass(t, self.loc, self.log_scale)
        else:
            red, green, _ = t.unbind(-2)
            log_p = self._log_mass(t, self._located(red, green), self.log_scale).sum(-2)
        total: Tensor = torch.logsumexp(self.log_weights + log_p, -1)
        return total

    def _located(self, red: Tensor, green: Tensor) -> Tensor:
        """The locations (..., 3, C) given red and green, (..., 1) or (..., C), on [-1, 1]."""
        assert self.coupling is not None
        of_green, of_blue, of_blue_on_green = self.coupling.unbind(-2)
        m_red, m_green, m_blue = self.loc.unbind(-2)
        parts = (m_red, m_green + of_green * red, m_blue + of_blue * red + of_blue_on_green * green)
        return torch.stack(torch.broadcast_tensors(*parts), -2)

    def _log_mass(self, t: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
        """Log of a component's mass on the level at t, for shapes that broadcast."""
        half = 1 / (self.levels - 1)
        rate = (-log_scale).exp()
        upper, lower = (t + half - loc) * rate, (t - half - loc) * rate
        # a bin is half a step from the next, so that rounding in t cannot make an inner level an
        # outer one
        first, last = t < -1 + half, t > 1 - half
        both = logsigmoid(upper) + logsigmoid(-lower) + _log1mexp(2 * half * rate)
        return torch.where(first, logsigmoid(upper), torch.where(last, logsigmoid(-lower), both))

    def _moments(self, loc: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """E[t] and E[t^2] of each component, by the sum over levels, of which one at a time is
        held.
        """
        first, second = torch.zeros_like(loc), torch.zeros_like(loc)
        for t in self._grid:
            mass = self._log_mass(t, loc, log_scale).exp()
            first, second = first + t * mass, second + t**2 * mass
        return first, second

    def _average(self, values: Tensor) -> Tensor:
        """sum_c pi_c v_c: (..., C) -> (...)."""
        return (self.log_weights.exp() * values).sum(-1)

    @property
    def mean(self) -> Tensor:
        if self.coupling is None:
            return (self._average(self._moments(self.loc, self.log_scale)[0]) + 1) / 2
        scales = self.log_scale.unbind(-2)
        red = green = blue = torch.zeros_like(scales[0])
        red = self._moments(self._located(red, green)[..., 0, :], scales[0])[0]
        green = self._moments(self._located(red, green)[..., 1, :], scales[1])[0]
        blue = self._moments(self._located(red, green)[..., 2, :], scales[2])[0]
        return (torch.stack([self._average(channel) for channel in (red, green, blue)], -1) + 1) / 2

    @property
    def variance(self) -> Tensor:
        if self.coupling is not None:
            raise NotImplementedError(
                "the variance of coupled channels is a sum over all pairs and triples of levels"
            )
        centre, variance = 2 * self.mean[..., None] - 1, torch.zeros_like(self.loc)
        for t in self._grid:  # about the mean: the difference of two squares can round below zero
            variance = (
                variance + (t - centre) ** 2 * self._log_mass(t, self.loc, self.log_scale).exp()
            )
        return self._average(variance) / 4

    @torch.no_grad()
    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        shape = torch.Size(sample_shape)
        chosen = Categorical(logits=self.log_weights, validate_args=False).sample(shape)[..., None]

        def of_chosen(values: Tensor) -> Tensor:
            """The parameter of the component that was drawn: (..., C) -> (sample, ...)."""
            return values.expand(shape + values.shape).gather(-1, chosen)[..., 0]

        if self.coupling is None:
            return (self._drawn(of_chosen(self.loc), of_chosen(self.log_scale)) + 1) / 2
        m_red, m_green, m_blue = (of_chosen(m) for m in self.loc.unbind(-2))
        s_red, s_green, s_blue = (of_chosen(s) for s in self.log_scale.unbind(-2))
        of_green, of_blue, of_blue_on_green = (of_chosen(k) for k in self.coupling.unbind(-2))
        red = self._drawn(m_red, s_red)
        green = self._drawn(m_green + of_green * red, s_green)
        blue = self._drawn(m_blue + of_blue * red + of_blue_on_green * green, s_blue)
        return (torch.stack([red, green, blue], -1) + 1) / 2

    def _drawn(self, loc: Tensor, log_scale: Tensor) -> Tensor:
        """A level on [-1, 1]: the logistic's draw, taken to the level of the bin that it falls
        into.
        """
        # as log u - log(1 - u) with u in [0, 1) kept off its ends, a logistic by inversion
        u = torch.rand_like(loc).clamp(
            torch.finfo(loc.dtype).tiny, 1 - torch.finfo(loc.dtype).eps / 2
        )
        value = loc + (u.log() - torch.log1p(-u)) * log_scale.exp()
        steps = ((value + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1)
        return 2 * steps / (self.levels - 1) - 1


def _log1mexp(width: Tensor) -> Tensor:
    """log(1 - e^-w) for w > 0, by log(-expm1(-w)) where w is small and log1p(-exp(-w)) where it is
    large (Maechler 2012).
    """
    small, large = width.clamp(max=math.log(2)), width.clamp(min=math.log(2))
    return torch.where(
        width < math.log(2), (-torch.expm1(-small)).log(), torch.log1p(-(-large).exp())
    )


class ChannelsFirst(Distribution):
    """A picture of independent pixels with the channels in front, event (C, H, W).

    Args:
        pixels: batch (..., H, W), event (C,).
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = False

    def __init__(self, pixels: Distribution) -> None:
        self.pixels = pixels
        picture = pixels.batch_shape[-2:]
        super().__init__(pixels.batch_shape[:-2], pixels.event_shape + picture, validate_args=False)

    @property
    def support(self) -> Constraint | None:
        return self.pixels.support

    @property
    def mean(self) -> Tensor:
        return self.pixels.mean.movedim(-1, -3)

    def by_pixel(self, value: Tensor) -> Tensor:
        """Log-density of each pixel: (..., C, H, W) -> (..., H, W)."""
        log_p: Tensor = self.pixels.log_prob(value.movedim(-3, -1))
        return log_p

    def log_prob(self, value: Tensor) -> Tensor:
        return self.by_pixel(value).sum((-2, -1))

    # torch says Size alone
    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:  # type: ignore[override]
        return self.pixels.sample(torch.Size(sample_shape)).movedim(-1, -3)
