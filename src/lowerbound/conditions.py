"""Conditions: y beside a value, on its way into a network.

    log p(x|y) >= E_q[log p(x|z, y)] - KL(q(z|x, y) ‖ p(z|y))

Each of the three may be given y or do without it (Sohn, Lee and Yan 2015; Kingma, Rezende, Mohamed
and Welling 2014, arXiv 1406.5298; Doersch 2016, arXiv 1606.05908). A condition is said by one
setting, which is all that a part has to know of y:

    None        y is not used
    C           y is one of C classes, whole numbers 0..C-1, (B,); a network sees it as one-hot,
                (C,)
    a shape Y   y is real, (B, *Y); a network sees it standardised, once fit has set its units

A network takes one value, so y is put beside it: appended to a vector, and beside a picture as one
more channel, a learned linear map of y, so that convolutions have it at every pixel. y is broadcast
against the leading dimensions of the value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from lowerbound.shapes import Shape, as_shape, numel, over_leading

Condition: TypeAlias = int | Sequence[int] | None


def as_condition(condition: Condition) -> int | Shape | None:
    """A condition in one form, so that two can be compared.

    Raises:
        ValueError: no class, or a size below 1.
        TypeError: neither a whole number nor a shape.

    Example:
        >>> as_condition(10), as_condition([28, 5]), as_condition(None)
        (10, (28, 5), None)
    """
    if condition is None:
        return None
    if isinstance(condition, (bool, str)) or not isinstance(condition, (int, Sequence)):
        raise TypeError(
            f"condition is {condition!r}: it must be a number of classes, the shape of real "
            "values, or None"
        )
    if not isinstance(condition, int):
        return as_shape(condition, "condition")
    if condition < 1:
        raise ValueError(f"condition is {condition}: a number of classes must be at least 1")
    return condition


def can_look(y: Tensor) -> bool:
    """Whether y has values and looking at them costs nothing: on an accelerator it would wait for
    the device.
    """
    return y.device.type == "cpu" and not torch.compiler.is_compiling() and y.numel() > 0


class ConditionEncoder(nn.Module):
    """y as a network takes it: (..., *Y) -> (..., *shape).

    Args:
        condition: C for classes, or the shape Y of real values.
        name: who is conditioned, for messages.

    Raises:
        ValueError: no class, or a size below 1.
        TypeError: neither a whole number nor a shape.

    Example:
        >>> ConditionEncoder(3, "p(z|y)")(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, condition: int | Sequence[int], name: str) -> None:
        super().__init__()
        known = as_condition(condition)
        assert known is not None  # for mypy; see the signature
        self.classes = known if isinstance(known, int) else None
        self.y_shape: Shape = () if isinstance(known, int) else known
        self.shape: Shape = self.y_shape if self.classes is None else (self.classes,)
        self.name = name
        # units of real values, the identity until they are learned
        of_units = self.y_shape if self.classes is None else ()
        self.register_buffer("loc", torch.zeros(of_units), persistent=self.classes is None)
        self.register_buffer("scale", torch.ones(of_units), persistent=self.classes is None)

    @property
    def words(self) -> str:
        """What is asked for, in words."""
        return (
            f"one of {self.classes} classes"
            if self.classes is not None
            else f"real values of shape {self.y_shape}"
        )

    @torch.no_grad()
    def learn(self, y: Tensor) -> None:
        """Set the units from real values (n, *Y), unless they have been set, or y lies in [0, 1] as
        pixels do.
        """
        is_set = bool((self.loc != 0).any() or (self.scale != 1).any())
        if self.classes is not None or is_set or bool(((y >= 0) & (y <= 1)).all()):
            return
        spread = y.double().std(0, correction=0)
        self.loc.copy_(y.double().mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))

    def check(self, y: Tensor | None) -> Tensor:
        """Y itself where it is what is asked for.

        Raises:
            ValueError: there is none, it has another shape or kind, a class out of range, or a
                value that is not finite.
        """
        if y is None:
            raise ValueError(
                f"{self.name} is conditioned on y, {self.words}, and there is none: give "
                "context=Context(y=...)"
            )
        if self.classes is None:
            if y.shape[max(0, y.ndim - len(self.y_shape)) :] != self.y_shape:
                raise ValueError(
                    f"{self.name} is conditioned on {self.words}, and y has the shape "
                    f"{tuple(y.shape)}"
                )
            if can_look(y) and not bool(torch.isfinite(y).all()):
                raise ValueError(
                    f"{self.name} is conditioned on {self.words}, and y holds some that are not "
                    "finite"
                )
            return y
        if y.is_floating_point() or y.dtype == torch.bool:
            raise ValueError(
                f"{self.name} is conditioned on {self.words}, whole numbers, and y holds {y.dtype}"
            )
        if can_look(y):
            low, high = int(y.min()), int(y.max())
            if low < 0 or high >= self.classes:
                wrong = low if low < 0 else high
                raise ValueError(
                    f"{self.name} is conditioned on {self.words}, numbered 0 to "
                    f"{self.classes - 1}, and y holds {wrong}"
                    + " (unlabelled: the model M2 takes that)"
                    * (wrong == -1)
                )
        return y

    def forward(self, y: Tensor | None) -> Tensor:
        y = self.check(y)
        if self.classes is None:
            return (y - self.loc) / self.scale
        return (y[..., None] == torch.arange(self.classes, device=y.device)).to(self.loc.dtype)


class ConditionedInput(nn.Module):
    """Puts y beside a value of shape V: (..., *V) and y -> (..., *in_shape), which a network takes
    in the place of V.

    With condition None it has no weights, in_shape is V, and a value passes as it is.

    Args:
        shape: V.
        condition: None, a number of classes, or the shape of real values.
        name: who is conditioned, for messages.

    Example:
        >>> vector, picture = (
        ...     ConditionedInput((3,), 10, "q(z|x, y)"),
        ...     ConditionedInput((3, 8, 8), 10, "q(z|x, y)"),
        ... )
        >>> vector.in_shape, picture.in_shape
        ((13,), (4, 8, 8))
        >>> vector(torch.zeros(7, 5, 3), torch.arange(5)).shape
        torch.Size([7, 5, 13])
    """

    def __init__(self, shape: Shape, condition: Condition, name: str) -> None:
        super().__init__()
        self.shape = shape
        self.in_shape = shape
        self.encoder = None if condition is None else ConditionEncoder(condition, name)
        if self.encoder is None:
            return
        width = numel(self.encoder.shape)
        if len(shape) >= 2:
            self.in_shape = (numel(shape[:-2]) + 1, *shape[-2:])
            self.channel = nn.Linear(width, shape[-2] * shape[-1])
        else:
            self.in_shape = (numel(shape) + width,)

    def forward(self, value: Tensor, y: Tensor | None) -> Tensor:
        """The value with y beside it.

        Raises:
            ValueError: y is not what the condition asks for, or is that of another number of
                examples.
        """
        if self.encoder is None:
            return value
        split = value.ndim - len(self.shape)
        if split < 0 or value.shape[split:] != self.shape:
            raise ValueError(
                f"a value of shape {tuple(value.shape)} does not end in the event shape "
                f"{self.shape}"
            )
        known = self.encoder(y).to(value.dtype)
        known = known.reshape(*known.shape[: known.ndim - len(self.encoder.shape)], -1)
        try:
            leading = torch.broadcast_shapes(value.shape[:split], known.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"{self.encoder.name} is given y of {known.shape[-2]} examples beside "
                f"{value.shape[split - 1]}; give one for each, or one for all"
            ) from None
        if len(self.shape) < 2:
            flat = value.reshape(*value.shape[:split], -1)
            return torch.cat([flat.expand(*leading, -1), known.expand(*leading, -1)], -1)
        height, width = self.shape[-2:]
        channels = value.reshape(*value.shape[:split], -1, height, width)
        channel = self.channel(known).reshape(*known.shape[:-1], 1, height, width)
        both = channels, channel.to(value.dtype)
        return torch.cat([maps.expand(*leading, -1, -1, -1) for maps in both], -3)

    def through(
        self, network: nn.Module, value: Tensor, y: Tensor | None, out_shape: Shape
    ) -> Tensor:
        """What a network makes of the value with y beside it: (..., *V) -> (..., *out_shape)."""
        beside = value if self.encoder is None else self(value, y)
        return over_leading(network, beside, self.in_shape, out_shape)


def learn_conditions(model: nn.Module, y: Tensor | None) -> None:
    """Set the units of every real condition of a model, from the y of the training examples (n,
    *Y).
    """
    for module in model.modules():
        if isinstance(module, ConditionEncoder) and y is not None:
            module.learn(y.to(module.loc.device))
