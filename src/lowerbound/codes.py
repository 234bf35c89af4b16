"""How discrete codes are drawn, and how gradients reach the posterior that they are drawn from.

    relaxed            z ~ the relaxation of q, between the codes; log q and log p are densities of the relaxations of both,
                       at one temperature: a bound on the evidence of another model, the relaxed one, with its own unbiased
                       gradient (Maddison, Mnih and Teh 2017, arXiv 1611.00712)
    straight_through   z ~ q, a code, with the gradient of a relaxed draw: every number is that of the discrete model, and
                       q's gradient is biased (Jang, Gu and Poole 2017, arXiv 1611.01144)
    enumerated         every z, weighted by q(z|x): every number and gradient is exact, without noise, at the cost of one
                       evaluation of the likelihood for each
    sampled            z ~ q, a code, and no gradient: for objectives that need none (reweighted wake-sleep)

The closed-form KL of two categoricals beside a relaxed draw, which Jang et al. train with, is a bound on neither model and
not offered. In evaluation there is only the discrete model: few states are enumerated, so that its log p(x) is exact, and
many are sampled.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.distributions import count_states, states, straight_through
from lowerbound.messages import unknown
from lowerbound.shapes import Shape

Draws = Literal["relaxed", "straight_through", "enumerated", "sampled"]

FEW = 256  # states that are enumerated in evaluation without being asked: no more work than a few hundred draws, and exact
MOST = (
    1024  # states that are enumerated at all: a batch of 100 pictures of 784 values then takes 300 MB for p(x|z) alone
)


def check_categories(z_shape: Shape) -> None:
    """Refuse a latent shape that does not end in a number of categories.

    Raises:
        ValueError: which, and what would be one.
    """
    if not z_shape or z_shape[-1] < 2:
        raise ValueError(
            f"z_shape is {z_shape}: categorical codes need (n, C), n variables of C categories, or (C,), with C at least 2"
        )


def check_draws(draws: str, temperature: float, states: int) -> None:
    """Refuse settings of a posterior over codes that make no sense.

    Raises:
        ValueError: another word for draws, a temperature that is not positive, or too many states to be enumerated.
    """
    if draws not in get_args(Draws):
        raise ValueError(unknown("draws", draws, get_args(Draws)))
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: it must be a positive number, such as 0.5")
    if draws == "enumerated" and states > MOST:
        count = f"{states:,}" if states < 10**12 else f"about 1e{len(str(states)) - 1}"
        raise ValueError(
            f"the latent has {count} states, and at most {MOST:,} can be enumerated; use draws 'relaxed', or fewer of them"
        )


def drawn(
    q: Distribution, samples: int, draws: Draws, temperature: float, training: bool, reparameterised: bool
) -> tuple[Tensor, bool]:
    """Codes from q, which is relaxed already where they are to be, and whether they are all values of z.

    Args:
        q: batch (B,), event Z.
        samples: K.
        draws: how.
        temperature: of the relaxation, whose gradient goes straight through.
        training: in training all values are taken only where ``draws`` says so, in evaluation also where they are few.
        reparameterised: whether gradients are to reach q through z, which is then relaxed or goes straight through.

    Returns:
        z, (K, B, *Z), and False; or (S, B, *Z) and True.
    """
    if draws == "enumerated" or (not training and count_states(q) <= FEW):
        every = states(q)
        batch = q.batch_shape
        return every.reshape(len(every), *[1] * len(batch), *q.event_shape).expand(-1, *batch, *q.event_shape), True
    shape = torch.Size((samples,))
    if training and reparameterised and draws == "straight_through":
        return straight_through(q, temperature, shape), False
    return (q.rsample(shape) if q.has_rsample else q.sample(shape)), False
