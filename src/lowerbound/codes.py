"""How discrete codes are drawn, and how gradients reach the posterior that they are drawn from.

    gumbel_softmax     z between the codes, from the relaxation of q; the rate is the closed-form KL
                       of the codes. Value and gradient tend to those of the discrete model as the
                       temperature falls, and are no bound before, so that training logs no elbo
                       (Jang, Gu and Poole 2017, arXiv 1611.01144)
    concrete           the same z, with log q and log p as densities of the relaxations of both,
                       taken of what goes into the softmax or the sigmoid, where float32 keeps draws
                       apart: a bound on the evidence of another model, the relaxed one, with an
                       unbiased gradient (Maddison, Mnih and Teh 2017, arXiv 1611.00712). Its rate
                       exceeds that of the codes at any temperature: z is a function of the noise
                       that tells more than which code is nearest
    straight_through   z ~ q, a code, with the gradient of a relaxed draw: every number is that of
                       the discrete model, and q's gradient is biased (Jang, Gu and Poole 2017)
    enumerated         every z, weighted by q(z|x): every number and gradient is exact, without
                       noise, at the cost of one evaluation of the likelihood for each
    sampled            z ~ q, a code, and no gradient: for objectives that need none (reweighted
                       wake-sleep)

In evaluation there is only the discrete model: few states are enumerated, so that its log p(x) is
exact, and many are sampled.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch.distributions import Distribution

from lowerbound.compatibility import (
    EVALUABLE,
    PATHWISE,
    REPARAMETERISED,
    SAMPLED,
    UNCONDITIONED,
    WEIGHABLE,
    Capability,
)
from lowerbound.distributions import count_states, relaxed, squashed, states, straight_through
from lowerbound.roles import LatentSample
from lowerbound.shapes import Shape
from lowerbound.utils.messages import unknown

CodeSampling = Literal["gumbel_softmax", "concrete", "straight_through", "enumerated", "sampled"]

# states that are enumerated in evaluation without being asked: no more work than a few hundred
# draws, and exact
FEW = 256
# states that are enumerated at all: a batch of 100 pictures of 784 values then takes 300 MB for
# p(x|z) alone
MOST = 1024


def check_categories(z_shape: Shape) -> None:
    """Refuse a latent shape that does not end in a number of categories.

    Raises:
        ValueError: which, and what would be one.
    """
    if not z_shape or z_shape[-1] < 2:
        raise ValueError(
            f"z_shape is {z_shape}: categorical codes need (n, C), n variables of C categories, or "
            "(C,), with C at least 2"
        )


def check_draws(draws: str, temperature: float, states: int) -> None:
    """Refuse settings of a posterior over codes that make no sense.

    Raises:
        ValueError: another word for draws, a temperature that is not positive, or too many states
            to be enumerated.
    """
    if draws not in get_args(CodeSampling):
        raise ValueError(unknown("draws", draws, get_args(CodeSampling)))
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: it must be a positive number, such as 0.5")
    if draws == "enumerated" and states > MOST:
        count = f"{states:,}" if states < 10**12 else f"about 1e{len(str(states)) - 1}"
        raise ValueError(
            f"the latent has {count} states, and at most {MOST:,} can be enumerated; use draws "
            "'gumbel_softmax', or a smaller latent"
        )


def capabilities(draws: CodeSampling, *kinds: Capability) -> frozenset[Capability]:
    """What a posterior over codes of some kinds offers others (:mod:`lowerbound.compatibility`)."""
    without = {
        "gumbel_softmax": {PATHWISE, WEIGHABLE},
        "concrete": set[Capability](),
        "straight_through": {PATHWISE},
        "enumerated": {PATHWISE, SAMPLED},
        "sampled": {PATHWISE, REPARAMETERISED},
    }
    return (
        frozenset({EVALUABLE, REPARAMETERISED, PATHWISE, WEIGHABLE, SAMPLED, UNCONDITIONED, *kinds})
        - without[draws]
    )


def draw_codes(
    q: Distribution,
    samples: int,
    draws: CodeSampling,
    temperature: float,
    differentiably: bool,
    few: bool,
) -> LatentSample:
    """Codes from q, or all of them.

    Args:
        q: batch (B,), event Z; a relaxation where that is what is drawn.
        samples: K.
        draws: how.
        temperature: of the relaxation.
        differentiably: whether gradients are to reach q through z, as ``draws`` says how.
        few: whether few states are enumerated without being asked.
    """
    if draws == "enumerated" or (few and count_states(q) <= FEW):
        every, batch = states(q), q.batch_shape
        every = every.reshape(len(every), *[1] * len(batch), *q.event_shape)
        return LatentSample(every.expand(-1, *batch, *q.event_shape), is_enumerated=True)
    shape = torch.Size((samples,))
    if differentiably and draws == "gumbel_softmax":
        return LatentSample(relaxed(q, temperature).rsample(shape), is_relaxed=True)
    if differentiably and draws == "straight_through":
        return LatentSample(straight_through(q, temperature, shape))
    if differentiably and draws == "concrete":
        logits = q.rsample(shape)
        return LatentSample(squashed(q, logits), at=logits)
    return LatentSample(q.rsample(shape) if q.has_rsample else q.sample(shape))
