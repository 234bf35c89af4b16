"""Streams: whatever torch draws in a block comes from generators of the block's own, with the
numbers of the global ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lowerbound.utils.streams import RANDOM, Stream, drawing_from, drawing_globally

P = torch.linspace(0.05, 0.95, 200).reshape(40, 5)
PICTURE = P.reshape(1, 1, 20, 10)
TOKENS = P.reshape(1, 25, 8)

torch_state = torch.get_rng_state()  # the layers' weights must not depend on what ran before
torch.manual_seed(0)
LSTM = nn.LSTM(5, 6, 2, dropout=0.5)
ATTENTION = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
torch.set_rng_state(torch_state)

D = torch.distributions
DRAWS: dict[str, Callable[[], Tensor]] = {
    "randn": lambda: torch.randn(100),
    "rand": lambda: torch.rand(7, 3),
    "randint": lambda: torch.randint(2**48, (5,)),
    "randperm": lambda: torch.randperm(50),
    "randn into": lambda: torch.randn(20, out=torch.empty(20)),
    "randn, generator None": lambda: torch.randn(20, generator=None),
    "normal of tensors": lambda: torch.normal(P, P),
    "normal of a mean": lambda: torch.normal(P, 1.0),
    "normal of a scale": lambda: torch.normal(0.0, P),
    "normal of a shape": lambda: torch.normal(0.0, 1.0, (30,)),
    "normal into": lambda: torch.normal(P, P, out=torch.empty(40, 5)),
    "randn_like": lambda: torch.randn_like(P),
    "rand_like": lambda: torch.rand_like(P),
    "randint_like": lambda: torch.randint_like(P, 5),
    "bernoulli": lambda: torch.bernoulli(P),
    "bernoulli of a number": lambda: torch.bernoulli(P, 0.3),
    "bernoulli into": lambda: torch.bernoulli(P, out=torch.empty(40, 5)),
    "bernoulli_": lambda: P.clone().bernoulli_(0.3),
    "bernoulli_ of a tensor": lambda: P.clone().bernoulli_(P),
    "multinomial": lambda: torch.multinomial(P, 1),
    "multinomial, again and again": lambda: torch.multinomial(P, 7, True),
    "multinomial, several": lambda: torch.multinomial(P, 3),
    "multinomial into": lambda: torch.multinomial(P, 3, out=torch.empty(40, 3).long()),
    "exponential_": lambda: P.clone().exponential_(),
    "cauchy_": lambda: P.clone().cauchy_(),
    "log_normal_": lambda: P.clone().log_normal_(),
    "geometric_": lambda: P.clone().geometric_(0.3),
    "uniform_": lambda: P.clone().uniform_(),
    "normal_": lambda: P.clone().normal_(),
    "random_": lambda: P.clone().random_(),
    "random_ to": lambda: P.clone().random_(9),
    "random_ from": lambda: P.clone().random_(3, 9),
    "gamma": lambda: torch._standard_gamma(P),
    "dirichlet": lambda: torch._sample_dirichlet(P),
    "poisson": lambda: torch.poisson(P * 9),
    "binomial": lambda: torch.binomial(P * 0 + 20, P),
    "dropout": lambda: F.dropout(P, 0.4),
    "dropout in place": lambda: F.dropout(P.clone(), 0.4, inplace=True),
    "dropout with a gradient": lambda: F.dropout(P.clone().requires_grad_(), 0.4),
    "dropout of channels": lambda: F.dropout2d(P[:, :, None, None], 0.4),
    "alpha dropout": lambda: F.alpha_dropout(P, 0.4, True),
    "feature alpha dropout": lambda: F.feature_alpha_dropout(P, 0.4, True),
    "gumbel softmax": lambda: F.gumbel_softmax(P),
    "rrelu": lambda: F.rrelu(P - 0.5, training=True),
    "rrelu in place": lambda: F.rrelu(P - 0.5, training=True, inplace=True),
    "lstm with dropout": lambda: LSTM(P[None])[0],
    "attention with dropout": lambda: ATTENTION(TOKENS, TOKENS, TOKENS)[0],
    "attention without weights": lambda: ATTENTION(TOKENS, TOKENS, TOKENS, need_weights=False)[0],
    "fractional pooling": lambda: F.fractional_max_pool2d(PICTURE, 2, output_size=(3, 3)),
    "weights of a layer": lambda: nn.Linear(4, 5).weight,
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(20, 30)),
    "vmap": lambda: torch.func.vmap(F.dropout, randomness="same")(P),
    **{
        type(distribution).__name__: lambda distribution=distribution: (
            distribution.rsample((3,)) if distribution.has_rsample else distribution.sample((3,))
        )
        for distribution in (
            D.Normal(P, P), D.Gamma(P, 1.0), D.Beta(P, P), D.StudentT(P + 1), D.Dirichlet(P),
            D.Categorical(P), D.Bernoulli(P), D.Laplace(P, 1.0), D.VonMises(P, 1.0), D.Poisson(P),
            D.NegativeBinomial(P + 1, P / 2), D.Binomial(10, P), D.Cauchy(P, 1.0),
            D.MultivariateNormal(torch.zeros(3), torch.eye(3)), D.RelaxedOneHotCategorical(1.0, P),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWS)
def test_a_stream_gives_the_numbers_of_the_global_generator_and_leaves_it_alone(name: str) -> None:
    torch.manual_seed(7)
    expected, after = DRAWS[name](), torch.get_rng_state()
    torch.manual_seed(99)
    before, stream = torch.get_rng_state(), Stream(7)
    with drawing_from(stream):
        drawn = DRAWS[name]()
    assert torch.equal(drawn, expected)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(stream.state()["cpu"], after)  # and what comes next is the same, too


def test_every_operation_that_draws_is_made_of_those_that_are_handed_a_generator() -> None:
    composite = ("CompositeImplicitAutograd", "CompositeExplicitAutograd")
    composite += ("CompositeExplicitAutogradNonFunctional",)
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    primitive = set()
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and not any(has_kernel(name, key) for key in composite):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
            if any(argument.name == "generator" for argument in operation._schema.arguments):
                primitive.add(name.removeprefix("aten::"))
    assert primitive == set(RANDOM)


def test_a_generator_that_is_handed_over_is_drawn_from() -> None:
    with drawing_from(Stream(0)):
        drawn = [
            torch.randn(4, generator=torch.Generator().manual_seed(5)),
            torch.poisson(P, torch.Generator().manual_seed(5)),
        ]
    assert torch.equal(drawn[0], torch.randn(4, generator=torch.Generator().manual_seed(5)))
    assert torch.equal(drawn[1], torch.poisson(P, torch.Generator().manual_seed(5)))


def test_gradients_of_draws_are_those_of_the_global_generator() -> None:
    def gradient() -> Tensor:
        p = P.clone().requires_grad_()
        torch._standard_gamma(F.dropout(p, 0.3) + p).sum().backward()
        assert p.grad is not None
        return p.grad

    torch.manual_seed(7)
    expected = gradient()
    with drawing_from(Stream(7)):
        assert torch.equal(gradient(), expected)


def test_blocks_within_blocks() -> None:
    with drawing_from(Stream(1)):
        first = torch.randn(2)
        with drawing_from(Stream(2)):
            within = torch.randn(2)
        second = torch.randn(2)
    with drawing_from(Stream(1)):
        assert torch.equal(torch.stack([first, second]).flatten(), torch.randn(4))
    with drawing_from(Stream(2)):
        assert torch.equal(within, torch.randn(2))


def test_a_stream_goes_back_to_where_it_stood() -> None:
    stream = Stream(3)
    with drawing_from(stream):
        torch.randn(3)
        state = stream.state()
        first = torch.randn(5)
        stream.set_state(state)
        assert torch.equal(torch.randn(5), first)


def test_threads_draw_what_they_draw_alone() -> None:
    together = threading.Barrier(4)

    def draw(seed: int) -> Tensor:
        with drawing_from(Stream(seed)):
            together.wait()
            return torch.stack([F.dropout(torch.randn(10) + torch.rand(10)) for _ in range(200)])

    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(draw, range(4)))
    together = threading.Barrier(1)
    assert all(torch.equal(drawn[seed], draw(seed)) for seed in range(4))


def test_what_the_backward_pass_would_draw_anew_is_refused() -> None:
    x = P.clone().requires_grad_()
    with drawing_from(Stream(0)):
        kept = checkpoint(lambda x: 2 * x, x, use_reentrant=False).sum()
        kept.backward()  # it draws nothing
        loss = checkpoint(lambda x: F.dropout(x) * x, x, use_reentrant=False).sum()
        with pytest.raises(ValueError, match=r"leave dropout .* out of torch.utils.checkpoint"):
            loss.backward()


def test_one_thread_at_a_time_draws_from_the_global_generators() -> None:
    def other() -> None:
        with drawing_globally():
            pass

    with ThreadPoolExecutor(1) as pool:
        with drawing_globally():
            with drawing_globally():  # it is the same call
                pass
            with pytest.raises(ValueError, match="another compiled training is at work"):
                pool.submit(other).result()
        pool.submit(other).result()


def test_a_block_that_draws_globally_within_a_stream() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    with drawing_from(Stream(0)), drawing_globally():
        assert torch.equal(torch.randn(3), expected)
