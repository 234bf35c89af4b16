"""A pass through model and objective: what training repeats, and what is checked when the two first
meet.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.conditions import learn_conditions
from lowerbound.data.dataset import Dataset
from lowerbound.draw import Draw
from lowerbound.model import Model
from lowerbound.objective import JointSample, Objective, Step
from lowerbound.parallel.noise import check_noise
from lowerbound.roles import Context
from lowerbound.supports import UNIT, contains
from lowerbound.units import refilled, summary
from lowerbound.utils.messages import first_line
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import seeded

Fetch = Callable[[Tensor], tuple[Tensor, Context]]
"""The training examples at some indices (b,), (b, *X), with what is known beside them."""


class Passed:
    """What a pass gives: the scalar to differentiate; loss, penalties and all that is logged; how
    often codes occur.

    It is a plain object, since Fabric looks into tuples, mappings and data classes for tensors, at
    each step and twice.
    """

    def __init__(self, total: Tensor, log: dict[str, Tensor], usage: dict[str, Tensor]) -> None:
        self.total, self.log, self.usage = total, log, usage

    def __iter__(self) -> Iterator[Any]:
        return iter((self.total, self.log, self.usage))


class Pass(nn.Module):
    """One pass through model and objective, tensors in and tensors out: what Fabric wraps, and may
    compile or distribute.

    Args:
        model: gives the draw.
        objective: makes a loss of it.
    """

    def __init__(self, model: Model, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(
        self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int
    ) -> Passed:
        """The scalar to differentiate; loss, penalties and all that is logged, (B,) each; how often
        codes occur, (K,) each.

        Args:
            x: examples, (B, *X).
            context: what is known beside them, by the fields of :class:`~lowerbound.roles.Context`.
            progress: of the run, in [0, 1].
            examples: number of training examples.
        """
        known, objective = Context(**context), self.objective
        draw = draw_for(self.model, objective, x, known)
        joint_sample = (
            joint_sample_for(self.model, len(x), known) if objective.needs_joint_sample else None
        )
        terms = objective(draw, Step(progress, examples, joint_sample))
        loss = terms.loss if terms.batch_loss is None else terms.loss + terms.batch_loss
        return Passed(terms.both, {"loss": loss, **terms.log, **draw.penalties}, dict(draw.usage))


class GatheringPass(Pass):
    """A pass that is given the places of examples, and gathers and presents them itself, as a graph
    can.

    Args:
        model: gives the draw.
        objective: makes a loss of it.
        fetch: the examples at indices (B,), (B, *X), with what is known beside them, where the
            parameters are.
    """

    def __init__(self, model: Model, objective: Objective, fetch: Fetch) -> None:
        super().__init__(model, objective)
        self.fetch = fetch

    def forward(
        self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int
    ) -> Passed:
        """As :meth:`Pass.forward`, where x are indices (B,), and the context is empty."""
        x, known = self.fetch(x)
        dtype = next(self.parameters()).dtype  # in double precision that is not the data's
        converted = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in known.given.items()
        }
        x = x if x.dtype == torch.float64 else x.to(dtype)  # which the model puts on its own scale
        return super().forward(x, converted, progress, examples)


def draw_for(model: Model, objective: Objective, x: Tensor, context: Context) -> Draw:
    """The draw that an objective asks for."""
    # what is usual is not said, so that a model that offers nothing else need not know the word
    unusual = {} if objective.reparameterised else {"reparameterised": False}
    return model(x, context, objective.samples, objective.path_gradient, **unusual)


def joint_sample_for(model: Model, n: int, context: Context) -> JointSample:
    """N pairs from the model as it is in evaluation, and log q(z|x) of them as in training."""
    with evaluating(model):
        x, latents = model.sample_joint(n, context)
    return JointSample(x, latents, model.log_posterior(x, latents, context))


def dry_run(model: Model, objective: Objective, data: Dataset) -> str:
    """Let model and objective meet on one example, and say how the rate will be estimated.

    Raises:
        ValueError: the model fails on it, or does not give what the objective needs.
    """
    with torch.no_grad(), seeded(0), evaluating(model):
        x = data.present("train", torch.zeros(1, dtype=torch.long))
        context = data.context("train")[:1].to(next(model.parameters()).device)
        try:
            # of the model's modes only its own is that of training: it draws as it will, and
            # nothing in its networks moves
            model.training = True
            draw = draw_for(model, objective, x, context)
        except (RuntimeError, AttributeError, KeyError, IndexError) as error:
            raise ValueError(
                f"the model fails on a single example: {type(error).__name__}: {first_line(error)}"
            ) from error
        finally:
            model.training = False
        objective.check(draw)
    return objective.rate_name(draw)


@torch.no_grad()
def check_draws(model: Model, objective: Objective, data: Dataset) -> None:
    """Refuse a part that draws for something else than examples
    (:func:`~lowerbound.parallel.noise.check_noise`); for a training in which a batch is worked on
    in pieces, or by several processes.

    It takes passes through two and three examples as in training, and leaves no trace.

    Raises:
        ValueError: which part, and how to draw alike everywhere.
    """
    if len(data["train"]) < 3:
        return
    one_pass = Pass(model, objective)
    modes = {module: module.training for module in one_pass.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in one_pass.buffers()]
    with seeded(0):
        x = data.present("train", torch.arange(3))
    context = data.context("train")[:3].to(next(model.parameters()).device)
    try:
        one_pass.train()
        check_noise(lambda n: one_pass(x[:n], context[:n].given, 0.0, len(data["train"])))
    finally:
        for module, training in modes.items():
            module.training = training
        for buffer, before in buffers:
            buffer.copy_(before)


def prepare(model: Model, data: Dataset) -> None:
    """Give the model what it takes from the training examples before the first step: units and
    starting points.

    Of data in a file too large for it, units come from all examples and starting points from some
    (:meth:`Dataset.excerpt`).
    """
    x, are_all = data.excerpt("train")
    mask = data["train"].mask  # of data in a file there is none
    if data.dtype == torch.float64 or not contains(UNIT, data.support):
        # float64 of a summary is no sign that the data need it
        model.learn_units(x if are_all else summary(data.batches("train")), mask, dtype=data.dtype)
    learn_conditions(model, data.context("train").y)
    model.prepare(refilled(x, mask))


def trained(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not excluded by ``requires_grad_(False)``."""
    return [p for p in module.parameters() if p.requires_grad]


def not_finite(gradients: Iterable[Tensor]) -> Tensor:
    """Whether any gradient is not finite: 1 if so, found on the device, where nothing waits for it.

    A sum is not finite where a term is not, or where finite ones exceed the largest number
    together, as no gradient that deserves a step does. No norm is as cheap: on a CPU the largest
    entry takes 30 times as long, and squares overflow.
    """
    total = torch.stack([gradient.sum() for gradient in gradients]).sum()
    # not by what zero times it is: a compiler takes that for zero
    return (~total.isfinite()).float()


def check_gradients(model: nn.Module, objective: nn.Module, received: Collection[int]) -> None:
    """Every parameter must receive a gradient on the first step.

    Args:
        model: whose parameters.
        objective: whose parameters too.
        received: the ``id`` of each that did.

    Raises:
        ValueError: which do not.
    """
    named = [*model.named_parameters(), *objective.named_parameters(prefix="objective")]
    without = [name for name, p in named if p.requires_grad and id(p) not in received]
    if without:
        raise ValueError(
            f"{len(without)} parameters receive no gradient and would not be trained: "
            f"{', '.join(without[:5])}; use them in forward, or exclude them with "
            "requires_grad_(False)"
        )
