"""Pieces of a batch draw what the whole batch would have drawn, whatever the function."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # as everywhere
from torch import Tensor
from torch.distributions import Categorical, Gamma, Normal, Poisson

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.objectives import ELBO
from lowerbound.parallel.noise import at_work, check_noise
from lowerbound.parallel.processes import ALONE, Processes
from lowerbound.parallel.shards import (
    Shard,
    active,
    all_gather,
    batch_mean,
    entered,
    own_rows,
    pieces,
    replicated,
    rows_of_batch,
)
from lowerbound.training.passes import check_draws
from tests.together import NoisyWeights, ReplicatedWeights

B, K = 7, 3
P = torch.linspace(0.1, 0.9, B)

# each draws for the rows at hand; dim says where these are in the result
DRAWS: dict[str, tuple[int, Callable[[slice], Tensor]]] = {
    "rsample": (1, lambda rows: Normal(P[rows, None].expand(-1, 2), 1.0).rsample((K,))),
    "as many columns as rows": (0, lambda rows: torch.randn(len(P[rows]), 4)),
    "rand": (0, lambda rows: torch.rand(len(P[rows]), 4)),
    "randn of a shape": (0, lambda rows: torch.randn((len(P[rows]), 4), dtype=torch.float64)),
    "randn by name": (1, lambda rows: torch.randn(size=(K, len(P[rows]), 4))),
    "randint": (0, lambda rows: torch.randint(3, 99, (len(P[rows]),))),
    "rand_like": (0, lambda rows: torch.rand_like(P[rows, None].expand(-1, 5))),
    "uniform_": (0, lambda rows: torch.empty(len(P[rows]), 5).uniform_(2, 3)),
    "exponential_": (1, lambda rows: torch.empty(K, len(P[rows]), 5).exponential_()),
    "normal": (0, lambda rows: torch.normal(P[rows], P[rows])),
    "bernoulli": (0, lambda rows: torch.bernoulli(P[rows])),
    "multinomial": (
        0,
        lambda rows: torch.multinomial(torch.stack([P[rows], 1 - P[rows]], 1), K, True),
    ),
    "codes": (
        1,
        lambda rows: Categorical(probs=P[rows, None, None] * torch.ones(2, 5)).sample((K,)),
    ),
    "codes of a prior": (0, lambda rows: Categorical(probs=P).sample((len(P[rows]),))),
    "dropout": (0, lambda rows: F.dropout(P[rows, None].expand(-1, 6), 0.4)),
    "dropout of channels": (
        0,
        lambda rows: F.dropout2d(P[rows, None, None, None].expand(-1, 6, 2, 2), 0.4),
    ),
    "a shuffle of its own": (
        0,
        lambda rows: torch.rand_like(P[rows, None].expand(-1, 5)).argsort(1),
    ),
}


def in_pieces(draw: Callable[[slice], Tensor], dim: int, count: int) -> tuple[Tensor, Tensor]:
    """What all pieces draw, in order, and the state of the generator after each."""
    shards = [pieces(B, Processes(rank, count, rank, count))[0] for rank in range(count)]
    drawn, states = [], []
    for shard in shards:
        torch.manual_seed(1)
        with at_work(shard, K):
            drawn.append(draw(shard.rows))
        states.append(torch.get_rng_state())
    assert all(torch.equal(state, states[0]) for state in states)
    return torch.cat(drawn, dim), states[0]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_pieces_draw_what_the_whole_draws(name: str, count: int) -> None:
    if name == "codes of a prior" and count == B:
        pytest.skip("one row of probabilities is one row's, or all rows'")
    dim, draw = DRAWS[name]
    torch.manual_seed(1)
    whole = draw(slice(0, B))
    together, state = in_pieces(draw, dim, count)
    torch.testing.assert_close(together, whole, rtol=0, atol=0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows: Poisson(9 * P[rows]).sample((500,)),
        lambda rows: Gamma(9 * P[rows], 1.0).rsample((500,)),
    ],
)
def test_draws_that_take_as_many_numbers_as_they_need_come_from_generators_of_their_own(
    draw: Callable[[slice], Tensor],
) -> None:
    together, _ = in_pieces(draw, 1, 2)
    error = (9 * P / 500).sqrt()  # both have this variance
    assert ((together.mean(0) - 9 * P).abs() < 4 * error).all()
    correlation = torch.corrcoef(together.T) - torch.eye(B)
    assert correlation.abs().max() < 4 / 500**0.5


def test_a_block_that_is_replicated_draws_the_same_everywhere() -> None:
    def draw(rows: slice) -> Tensor:
        with replicated():
            return torch.randn(2, 4)

    together, _ = in_pieces(draw, 0, 2)
    assert torch.equal(together[:2], together[2:])


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_drawn_for_examples_is_let_through(name: str) -> None:
    check_noise(lambda n: DRAWS[name][1](slice(0, n)))


WEIGHTS = {
    "randn": lambda: torch.randn(6),
    "rand of two dimensions": lambda: torch.rand(12, 5),
    "normal": lambda: torch.normal(torch.zeros(4), 1.0),
    "normal_": lambda: torch.empty(6, 2).normal_(),
    "rsample": lambda: Normal(torch.zeros(6), 1.0).rsample(),
    "gamma": lambda: Gamma(torch.ones(6), 1.0).rsample(),
    "dropout of weights": lambda: F.dropout(torch.ones(6, 6), 0.5),
    "one number": lambda: torch.rand(1),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_what_is_drawn_for_anything_else_is_refused_in_one_line_unless_it_is_replicated(
    name: str,
) -> None:
    draw = WEIGHTS[name]
    with pytest.raises(ValueError, match=r"^a part draws .* shape \(.*parallel\.shards"):
        check_noise(lambda n: (torch.randn(3, n, 2), draw()))

    def alike(n: int) -> None:
        with replicated():
            draw()

    check_noise(alike)


def test_a_seed_and_a_dropout_that_is_off_are_no_noise_of_a_part() -> None:
    check_noise(lambda n: torch.randint(2**48, ()))
    check_noise(lambda n: F.dropout(torch.ones(6), 0.5, training=False))
    check_noise(lambda n: torch.randn(6, generator=torch.Generator()))


def test_the_check_takes_no_numbers_from_the_generator() -> None:
    before = torch.get_rng_state()
    check_noise(torch.randn)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_in_weights_is_refused_where_a_batch_is_worked_on_in_pieces() -> None:
    """Whatever the pieces, and before anything is trained; in one piece it is nobody's business."""
    for network, accumulate in ((ReplicatedWeights, 2), (NoisyWeights, 1)):
        model, data = _noisy(network)
        lb.fit(model, ELBO(), data, epochs=1, accumulate=accumulate, progress=False)
    model, data = _noisy(NoisyWeights)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="^NoisyWeights draws random numbers of the shape .6,."):
        lb.fit(model, ELBO(), data, epochs=1, accumulate=2, progress=False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_check_of_noise_leaves_no_trace() -> None:
    """Batch normalisation and running means move in training mode, and dropout draws."""
    x_shape, z_shape = (4,), (2, 3)
    data = lb.data.from_arrays(torch.rand(40, 4).numpy())
    model = lb.VAE(
        lb.priors.IndependentCodes(z_shape, codes=8),
        lb.posteriors.VectorQuantised(
            x_shape, z_shape, codes=8, network=partial(lb.networks.MLP, batch_norm=True)
        ),
        lb.likelihoods.OptimalNormal(z_shape, x_shape),
    ).eval()
    model.posterior.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, generator = [module.training for module in model.modules()], torch.get_rng_state()
    check_draws(model, ELBO(), data)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator)


def _noisy(network: Callable[..., torch.nn.Module]) -> tuple[lb.VAE, Dataset]:
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((4,), (2,), network=network),
        lb.likelihoods.Normal((2,), (4,)),
    )
    return model, lb.data.from_arrays(torch.rand(40, 4).numpy())


def test_a_generator_that_is_given_is_left_to_who_gave_it() -> None:
    shard = pieces(B, Processes(1, 2, 1, 2))[0]
    with at_work(shard):
        drawn = torch.rand(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("size", [1, 2, 7, 12])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_row_counts_once(size: int, count: int, accumulate: int) -> None:
    values = torch.arange(float(size))
    total, parts = 0.0, []
    for rank in range(count):
        shards = pieces(size, Processes(rank, count, rank, count), accumulate)
        assert [shard.is_last for shard in shards] == [False] * (accumulate - 1) + [True]
        for shard in shards:
            with at_work(shard):
                # as gradients are averaged over the processes
                total += float(batch_mean(values[shard.rows])) / count
            parts += [] if shard.is_spare else [shard.rows]
            assert shard.counted({"loss": values[shard.rows]})["loss"].sum() == (
                0 if shard.is_spare else values[shard.rows].sum()
            )
    assert total == pytest.approx(float(values.mean()))
    assert sorted(row for rows in parts for row in range(size)[rows]) == list(range(size))


def test_one_process_pays_nothing() -> None:
    (shard,) = pieces(B, ALONE)
    value = torch.randn(B)
    with at_work(shard):
        assert shard.is_whole
        assert all_gather(value) is value
        assert own_rows(value) is value
        assert len(torch.overrides._get_current_function_mode_stack()) == 0


def test_a_statistic_of_a_batch_in_pieces_is_refused() -> None:
    first, _ = pieces(B, ALONE, 2)
    with (
        at_work(first),
        pytest.raises(ValueError, match="needs the whole batch, which is worked on in pieces"),
    ):
        all_gather(P[first.rows])


def test_another_thread_works_on_rows_of_its_own() -> None:
    shard = Shard(0, 2, B)
    with ThreadPoolExecutor(1) as pool, entered(shard):
        assert active() is shard
        assert pool.submit(active).result() is None
        assert pool.submit(rows_of_batch, 2).result() == 2
