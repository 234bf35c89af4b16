"""q(z|x) refined for single examples: what its family can do, without the network that has to serve
all x at once.

    log p(x) - ELBO(q*)      approximation gap: the best member of q's family against the true
                             posterior
    ELBO(q*) - ELBO(q)       amortisation gap: what the encoder chose against that best member

(Cremer, Li and Duvenaud 2018, arXiv 1801.03558.) q* starts at q(z|x) and climbs the bound of one
example alone, by Adam on an offset to the output of the posterior's network: the parameters of q on
the scale on which they are free. It is a maximum that was searched for: the true one can only be
higher.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lowerbound.checks import check_density
from lowerbound.draw import Draw
from lowerbound.roles import Context

# of each example a step: enough for steps that point uphill, few enough for many examples at a time
REFINING = 16


@contextmanager
def refined(
    model: Callable[..., Draw],
    posterior: nn.Module,
    x: Tensor,
    context: Context | None = None,
    steps: int = 500,
    learning_rate: float = 0.1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[None]:
    """Within the block, and for these examples alone, ``model`` draws from the refined q.

    Args:
        model: gives a draw.
        posterior: the model's posterior, a part with a network ``net``.
        x: the examples, (B, *X); the block must ask for these and no others.
        context: labels, mask and the like.
        steps: of Adam; the learning rate falls to zero along a cosine.
        learning_rate: the first, in units of the network's output (for a normal: of means, and of
            log-variances).
        on_progress: called with (steps done, steps in all).

    Raises:
        ValueError: a posterior without a network, a score that is no log-density, or no step.

    Example:
        >>> import lowerbound as lb
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,)),
        ... ).eval()
        >>> x = torch.eye(4)
        >>> def elbo():
        ...     weighted = lb.evaluation.evidence(model, x, samples=1000)
        ...     return (-weighted.rate - weighted.distortion).mean().item()
        >>> before = elbo()
        >>> with refined(model, model.posterior, x, steps=100):
        ...     elbo() > before
        True
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: at least 1 is needed")
    network = getattr(posterior, "net", None)
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"{type(posterior).__name__} has no network (net) whose output could be refined"
        )
    seen = x if context is None else context.observed(x)
    offset: Tensor | None = None
    is_asked = False
    thread = threading.get_ident()  # others that ask the same model are given its own q

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # a prior may be made of the posterior at other inputs (VampPrior), and stays what it is
        nonlocal is_asked
        if threading.get_ident() == thread:
            is_asked = inputs[0].shape == x.shape and torch.equal(inputs[0], seen.to(inputs[0]))

    def moved(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        nonlocal offset
        if threading.get_ident() != thread:
            return output
        if not is_asked:
            return output
        if offset is None:
            offset = torch.zeros_like(output, requires_grad=True)
        return output + offset

    hooks = (posterior.register_forward_pre_hook(before), network.register_forward_hook(moved))
    try:
        with torch.no_grad():
            first = model(x, context, 1)
            check_density(first.is_density)
            if not first.is_enumerated and not all(
                latent.q.has_rsample for latent in first.latents
            ):
                raise ValueError(
                    f"{type(posterior).__name__} draws z without a gradient along which q could be "
                    "refined; take a latent so small that it is enumerated"
                )
        assert offset is not None  # the network has been used, by the draw above
        adam = torch.optim.Adam([offset], lr=learning_rate)
        for step in range(steps):
            for group in adam.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            with torch.enable_grad():
                draw = model(x, context, REFINING)
                (offset.grad,) = torch.autograd.grad((draw.distortion + draw.rate).sum(), offset)
            adam.step()
            if on_progress:
                on_progress(step + 1, steps)
        yield
    finally:
        for hook in hooks:
            hook.remove()
