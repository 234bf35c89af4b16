"""A multilayer perceptron between any two event shapes: flatten, (linear, activation) for each
width, linear, unflatten.

With batch normalisation, (linear, normalisation, activation) for each width: in training each
hidden unit is standardised over all that stands before the event, which is examples, and draws of
each where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lowerbound.parallel.shards import rows_of_batch
from lowerbound.shapes import Shape, as_shape, numel

FEW = 2**16  # values below which a gradient written in Python costs more than is saved
Activation = Literal[
    "ReLU", "Tanh", "SiLU", "GELU", "ELU", "LeakyReLU", "Softplus", "Sigmoid", "GLU"
]


class MLP(nn.Module):
    """A fully connected network, with torch's own initialisation.

    Args:
        in_shape: event shape of the input; () for a scalar.
        out_shape: event shape of the output; () for a scalar.
        hidden: widths of the hidden layers; none makes the network linear. One layer of 512 is what
            the classic 784-512-2-512-784 autoencoder uses.
        activation: the class in torch.nn to put behind every hidden layer. With "GLU", gated linear
            units (Dauphin et al. 2017, arXiv 1612.08083), a unit is a linear map times the sigmoid
            of another, and batch_norm standardises these.
        batch_norm: whether to standardise hidden units over the batch (Ioffe and Szegedy 2015,
            arXiv 1502.03167): in deep hierarchies more levels stay in use with it (Sonderby et al.
            2016, arXiv 1602.02282). In evaluation running averages stand in for the batch.

    Raises:
        ValueError: a width below 1, or an unknown activation; in training with batch normalisation,
            a batch of one example.

    Example:
        >>> import torch
        >>> MLP((1, 28, 28), (2, 16), hidden=(200, 200), activation="Tanh")(
        ...     torch.zeros(5, 1, 28, 28)
        ... ).shape
        torch.Size([5, 2, 16])
        >>> MLP((), ())(torch.zeros(5)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        hidden: Sequence[int] = (512,),
        activation: Activation = "ReLU",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        hidden = as_shape(hidden, "hidden")
        if activation not in get_args(Activation):
            raise ValueError(
                f"activation is {activation!r}; there is {', '.join(get_args(Activation))}"
            )
        self.out_shape, self.batch_norm = out_shape, batch_norm and len(hidden) > 0
        widths = (numel(in_shape), *hidden, numel(out_shape))
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(pairwise(widths)):
            if i < len(hidden) and activation == "GLU":
                layers += [Gated(before, after), *[nn.BatchNorm1d(after)] * batch_norm]
                continue
            layers.append(nn.Linear(before, after))
            if i < len(hidden):
                made = Tanh() if activation == "Tanh" else getattr(nn, activation)()
                layers += [nn.BatchNorm1d(after)] * batch_norm + [made]
        self.layers = nn.Sequential(*layers)

    def forward(self, value: Tensor) -> Tensor:
        if self.batch_norm and self.training and len(value) < 2 and rows_of_batch(len(value)) < 2:
            raise ValueError(
                "batch normalisation compares the examples of a batch, and this batch holds one; "
                "take another batch_size, or batch_norm false"
            )
        result: Tensor = self.layers(value if value.ndim == 2 else value.reshape(len(value), -1))
        return result if len(self.out_shape) == 1 else result.reshape(-1, *self.out_shape)


class Gated(nn.Module):
    """(W x + b) * sigmoid(V x + c): two layers, not one twice as wide, since an optimiser of
    matrices means W and V.

    Args:
        before: width of the input.
        after: width of the output.

    Example:
        >>> Gated(3, 5)(torch.zeros(7, 3)).shape
        torch.Size([7, 5])
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(before, after), nn.Linear(before, after)

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self.linear(value) * self.gate(value).sigmoid()
        return result


class Tanh(nn.Tanh):
    """tanh(x) = 2 sigmoid(2 x) - 1 in float32 on a CPU, where torch's sigmoid may take a quarter of
    its tanh's time.

    The two differ by rounding, at most 2e-7. In bfloat16 that is nothing beside the rounding of the
    result, and torch's tanh takes longer than that of float32 and the ways there and back.

    Example:
        >>> Tanh()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.7616,  0.0000,  0.7616])
    """

    def forward(self, value: Tensor) -> Tensor:
        if value.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(value)
        is_exact = value.dtype == torch.float32
        if (is_exact or value.dtype == torch.bfloat16) and not (
            torch.is_grad_enabled() and value.requires_grad
        ):
            return _by_sigmoid(value.float()).to(value.dtype)
        if not is_exact or value.numel() < FEW:
            return super().forward(value)
        # torch says nothing of it
        result: Tensor = _BySigmoid.apply(value)  # type: ignore[no-untyped-call]
        return result


def _by_sigmoid(value: Tensor) -> Tensor:
    return (2 * value).sigmoid_().mul_(2).sub_(1)


class _BySigmoid(torch.autograd.Function):
    """The same with the gradient of tanh, which its value is enough for."""

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return _by_sigmoid(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        # torch says nothing of it
        return torch.ops.aten.tanh_backward(gradient, output)  # type: ignore[no-any-return]
