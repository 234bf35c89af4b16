"""Optimisers: Adam for every parameter, or Muon for the matrices of layers and Adam for the rest.

Muon (Jordan et al. 2024) steps by the orthogonal matrix next to the average gradient. With M the
exponential average of the gradients of a matrix, looked ahead as Nesterov does,

    M_t = mu M_{t-1} + (1 - mu) G_t
    N_t = mu M_t + (1 - mu) G_t = U S V^T
    W_t = W_{t-1} - eta 0.2 sqrt(max(m, n)) U V^T

so that all directions of the m x n matrix W learn equally fast, not only those in which the
gradient is large. The factor 0.2 sqrt(max(m, n)) gives a step the size of one of Adam's (Liu et al.
2025, arXiv 2502.16982): one learning rate for both. U V^T is found without a singular value
decomposition, by five odd polynomials X <- a X + (b A + c A^2) X with A = X X^T, each of which
drives the singular values towards 1. That is the arithmetic of 3 to 5 min(m, n) examples in the
same layer, whatever the batch is.

Adam divides a gradient by the size that its kind has, and so by its own where it is alone in being
large. Muon does not: one that is hundreds of times as large as the others is all that M knows for
some 1 / (1 - mu) = 20 steps and more, and its direction is that of one batch. Where a scale is the
exponential of a network, such a gradient comes in the end; clipped at a few times their usual norm
it is one among others.

Weight decay is decoupled from the gradient (Loshchilov and Hutter 2017, arXiv 1711.05101): a step
first multiplies a weight by 1 - eta lambda. It means the same for both optimisers, since Muon's
steps have the size of Adam's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import unwrap
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from lowerbound.objective import Objective
from lowerbound.training.passes import trained

OptimizerName = Literal["adam", "muon"]
OptimizerFactory: TypeAlias = Callable[..., Optimizer]
"""What makes an optimiser of groups of parameters, ``factory(groups, lr=0.001)``: a class of
torch.optim, or a partial of one.
"""

MOMENTUM = 0.95
# Jordan's coefficients: the steepest quintic at zero whose iterates stay between 0.7 and 1.2, which
# is near enough to 1
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# rows up to which a call costs more than its arithmetic, and float32 no more than bfloat16
SMALL = 64
TINY = 1e-7  # a gradient of zero has no direction and gives no step


class Adam(torch.optim.Adam):
    """torch's Adam, without the wait for the compiler.

    torch wraps these methods so that ``torch.compile`` leaves them alone, and the wrapper imports
    the compiler, 1.8 s, at the first call. Nothing that is compiled here calls them
    (:class:`~lowerbound.training.compiled.CompiledStep` updates by :func:`adam_update`), so these
    are the methods inside the wrappers: the same arithmetic and the same state.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter once."""
        loss: float | None = unwrap(torch.optim.Adam.step)(self, closure)
        return loss


class Muon(Adam):
    """Adam, but for the groups that say ``is_matrices``, which take orthogonal steps.

    Args:
        groups: of parameters, each with ``is_matrices``.
        lr: the learning rate of groups that do not say theirs.
        fused: of Adam.

    Attributes:
        found_inf: 1 where the step is to be skipped, decided on the device; 0 or None where it is
            taken.
    """

    found_inf: Tensor | None = None

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, fused: bool) -> None:
        super().__init__(groups, lr=lr, fused=fused, decoupled_weight_decay=True)  # AdamW's

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter once."""
        every = self.param_groups
        self.param_groups = [group for group in every if not group["is_matrices"]]
        try:
            loss: float | None = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group["is_matrices"]:
                for p in group["params"]:
                    if p.grad is not None:
                        self._orthogonal_step(p, group["lr"], group["weight_decay"])
        return loss

    @torch.no_grad()
    def _orthogonal_step(self, p: nn.Parameter, rate: float, weight_decay: float) -> None:
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state["exp_avg"] = torch.zeros_like(p)
        average, step = state["exp_avg"], rate * 0.2 * math.sqrt(max(p.flatten(1).shape))
        taken: Tensor | None = None
        if self.found_inf is not None:
            taken = 1 - self.found_inf  # a tensor: nobody waits for it
            # which leaves the average as it is
            gradient = torch.where(self.found_inf > 0, average, gradient)
        average.lerp_(gradient, 1 - MOMENTUM)
        direction = orthogonal(gradient.lerp(average, MOMENTUM).flatten(1)).reshape(p.shape)
        if weight_decay:
            p.mul_(1 - rate * weight_decay * (1.0 if taken is None else taken.to(p.dtype)))
        if taken is None:
            p.sub_(direction, alpha=step)
            state["step"] += 1
        else:
            p.addcmul_(direction.to(p.dtype), taken.to(p.dtype), value=-step)
            state["step"] += taken


def begun(optimizer: torch.optim.Adam, p: nn.Parameter) -> dict[str, Tensor]:
    """What Adam keeps of a parameter: that before the first step, where there is nothing yet."""
    state: dict[str, Tensor] = optimizer.state[p]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(p)
    return state


def adam_update(
    p: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    size: Tensor,
    scale: Tensor,
    betas: tuple[float, float],
    eps: float,
    taken: Tensor,
) -> None:
    """A step of Adam, as torch's fused one, for a graph that joins it to what made the gradient.

    Args:
        p: changed in place, as the state is.
        gradient: of p.
        state: its ``exp_avg``, ``exp_avg_sq`` and ``step``.
        size: the learning rate over 1 - betas[0]^step, ().
        scale: the root of 1 - betas[1]^step, ().
        betas: how much of the averages of gradients and of squares is kept.
        eps: added to the root of the second.
        taken: 1, or 0 where everything is to stay as it is, ().
    """
    mean = state["exp_avg"].lerp(gradient, 1 - betas[0])
    square = betas[1] * state["exp_avg_sq"] + (1 - betas[1]) * gradient * gradient
    moved = p - size * mean / (square.sqrt() / scale + eps)
    for old, new in ((p, moved), (state["exp_avg"], mean), (state["exp_avg_sq"], square)):
        old.copy_(torch.where(taken > 0, new, old))
    state["step"].add_(taken)


def orthogonal(matrix: Tensor) -> Tensor:
    """U V^T, nearly, of a matrix U S V^T (m, n): singular values between 0.7 and 1.2.

    Products are in bfloat16, small ones in float32.

    Example:
        >>> values = torch.linalg.svdvals(orthogonal(torch.randn(8, 20)).float())
        >>> bool(values.min() > 0.5), bool(values.max() < 1.3)
        (True, True)
    """
    a, b, c = QUINTIC
    # A is then the smaller of the two products
    x = matrix.T if len(matrix) > matrix.shape[1] else matrix
    x = x * matrix.norm().clamp(min=TINY).reciprocal()  # no singular value is above 1
    x = x.float() if len(x) <= SMALL else x.bfloat16()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if len(matrix) > matrix.shape[1] else x


def make_optimizer(
    optimizer: OptimizerName | OptimizerFactory,
    model: nn.Module,
    objective: Objective,
    lr: float,
    fused: bool,
    weight_decay: float = 0.0,
) -> Optimizer:
    """The optimiser of model and objective.

    Args:
        optimizer: its name, or what makes one of the parameters.
        model: whose parameters.
        objective: whose own parameters are always Adam's, with the settings that it asks for.
        lr: the learning rate.
        fused: of Adam.
        weight_decay: of the weights of layers.

    Raises:
        ValueError: Muon for a model without a matrix.
        TypeError: the factory makes something else than an optimiser.
    """
    groups = parameter_groups(model, objective)
    if not isinstance(optimizer, str):
        made = optimizer(groups, lr=lr)
        if not isinstance(made, Optimizer):
            raise TypeError(
                f"optimizer makes a {type(made).__name__}, and torch.optim.Optimizer is needed"
            )
        return made
    if optimizer == "muon":
        matrices = {id(p) for p in layer_matrices(model)}
        groups = divided(groups, matrices, "is_matrices", (True, False))
        if not any(group["is_matrices"] for group in groups):
            raise ValueError(
                "optimizer 'muon' is for the weights of linear and convolutional layers, and none "
                "of this model's are trained; use 'adam'"
            )
    if weight_decay:
        decayed = {id(p) for p in layer_weights(model)}
        groups = divided(groups, decayed, "weight_decay", (weight_decay, 0.0))
    if optimizer == "muon":
        return Muon(groups, lr, fused)
    return Adam(groups, lr=lr, fused=fused, decoupled_weight_decay=weight_decay > 0)


def parameter_groups(model: nn.Module, objective: Objective) -> list[dict[str, Any]]:
    """What an optimiser is given: the parameters of the model, and those of the objective with the
    settings that it asks for.
    """
    groups = [{"params": trained(model)}, {"params": trained(objective), **objective.adam}]
    return [group for group in groups if group["params"]]


def divided(
    groups: Iterable[dict[str, Any]], chosen: Collection[int], key: str, values: tuple[Any, Any]
) -> list[dict[str, Any]]:
    """Each group as two: the parameters that are chosen, with the first value of a setting, and the
    others, with the second.

    Args:
        groups: as an optimiser takes them.
        chosen: the ``id`` of each such parameter.
        key: the setting.
        values: of the setting.
    """
    result = []
    for group in groups:
        for is_chosen, value in zip((True, False), values, strict=True):
            parameters = [p for p in group["params"] if (id(p) in chosen) == is_chosen]
            result += [{**group, "params": parameters, key: value}] if parameters else []
    return result


def layer_weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear, convolutional and recurrent layers: what weight decay acts on.

    Biases, scales, normalisations and what a part learns besides (a prior's mean, pseudo-inputs, a
    codebook) are left alone: drawn to zero, a log-scale says that the scale is one, which is no
    simpler than another.
    """
    recurrent = [
        parameter
        for module in model.modules()
        if isinstance(module, nn.RNNBase)
        for name, parameter in module.named_parameters(recurse=False)
        if name.startswith("weight")
    ]
    return layer_matrices(model) + recurrent


def layer_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The weights of linear and convolutional layers, kernels as matrices (first channels, all
    else).

    Other parameters with several dimensions, such as pseudo-inputs and tables of codes, are no maps
    between spaces.
    """
    layers = (module for module in model.modules() if isinstance(module, (nn.Linear, _ConvNd)))
    return [layer.weight for layer in layers if isinstance(layer.weight, nn.Parameter)]


def moments(optimizer: torch.optim.Optimizer) -> list[dict[str, torch.Size]]:
    """The shapes of what the optimiser keeps of each parameter, by name; empty for an optimiser of
    the user's own, of which they are not known.
    """
    if type(optimizer) not in (Adam, Muon):
        return []
    return [
        {
            "step": torch.Size(()),
            "exp_avg": p.shape,
            **({} if group.get("is_matrices") else {"exp_avg_sq": p.shape}),
        }
        for group in optimizer.param_groups
        for p in group["params"]
    ]
