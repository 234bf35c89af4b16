"""The same call gives the same numbers, whatever runs beside it: other calls of the kind, and a
thread that seeds and draws from torch's global generator all the while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.training.callbacks import Training
from tests.conftest import make_model

SEEDS = range(4)
COMPILED = "another compiled training is at work"


@pytest.fixture(scope="module")
def few() -> Dataset:
    return few_digits()


def few_digits() -> Dataset:
    """Few enough examples that a training is over soon."""
    digits = lb.data.load("digits", binarize="threshold")
    x = digits.examples("train", 300)
    return lb.data.from_arrays(x, y=digits.context("train")[:300].y)


@contextmanager
def disturbed() -> Iterator[None]:
    """Within the block another thread seeds torch's global generator and draws from it, all the
    while; it has begun when the block does, and has ended when the block has.
    """
    has_begun, is_over = threading.Event(), threading.Event()

    def disturb() -> None:
        while not is_over.is_set():
            torch.manual_seed(123)
            torch.rand(3)
            has_begun.set()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        has_begun.wait()
        yield
    finally:
        is_over.set()
        thread.join()


def at_once(call: Callable[[int], Any]) -> list[Any]:
    """What the call gives for each seed, in as many threads, which begin together."""
    begin = threading.Barrier(len(SEEDS))

    def begun(seed: int) -> Any:
        begin.wait()
        return call(seed)

    with disturbed(), ThreadPoolExecutor(len(SEEDS)) as pool:
        return list(pool.map(begun, SEEDS))


def with_dropout(in_shape: Sequence[int], out_shape: Sequence[int]) -> nn.Module:
    network = lb.networks.MLP(tuple(in_shape), tuple(out_shape), hidden=(20,))
    return nn.Sequential(nn.Dropout(0.2), network)


def made(seed: int) -> lb.VAE:
    """A model that draws by a flow, and by dropout where it is trained."""
    torch.manual_seed(seed)
    return lb.VAE(
        prior=lb.priors.Mixture((3,), components=2),
        posterior=lb.posteriors.Planar((1, 8, 8), (3,), network=with_dropout),
        likelihood=lb.likelihoods.Bernoulli((3,), (1, 8, 8), network=with_dropout),
    )


def train(model: lb.VAE, seed: int, data: Dataset, **settings: Any) -> list[Tensor]:
    history = lb.fit(
        model, lb.objectives.ELBO(), data, epochs=2, seed=seed, progress=False, **settings
    )
    losses = torch.tensor([history.series("loss"), history.series("loss", "valid")])
    return [losses, *model.state_dict().values()]


def are_equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("settings", [{}, {"accumulate": 3}], ids=["whole", "in pieces"])
def test_trainings_at_once_give_what_each_gives_alone(
    few: Dataset, settings: dict[str, int]
) -> None:
    alone = [train(made(seed), seed, few, **settings) for seed in SEEDS]
    assert not are_equal(alone[0], alone[1])
    models = [made(seed) for seed in SEEDS]
    together = at_once(lambda seed: train(models[seed], seed, few, **settings))
    for first, second in zip(alone, together, strict=True):
        assert are_equal(first, second)


def test_a_training_is_resumed_bit_for_bit_beside_others(few: Dataset, tmp_path: Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        raise OSError("the first epoch is over")

    def interrupted(seed: int) -> list[Tensor]:
        out = tmp_path / str(seed)
        with pytest.raises(lb.CallbackError):
            train(models[seed], seed, few, out=out, callbacks=[fail])
        return train(others[seed], seed, few, out=out, resume=True)

    # a file of weights says nothing of a network that is made here, so these are the library's
    alone, models, others = ([make_model(few) for _ in SEEDS] for _ in range(3))
    for model, same in zip(alone, models, strict=True):
        same.load_state_dict(model.state_dict())
    together = at_once(interrupted)
    for seed in SEEDS:
        assert are_equal(train(alone[seed], seed, few), together[seed])


MODEL_CALLS: dict[str, Callable[[lb.VAE, Dataset, int], list[Tensor]]] = {
    "evaluate": lambda model, data, seed: list(
        lb.evaluate(model, data, samples=20, seed=seed, batch_size=50).values.values()
    ),
    "gaps": lambda model, data, seed: [
        torch.tensor([found.amortisation_gap.value, found.approximation_gap.value])
        for found in [lb.gaps(
            model, data.examples("test")[:2], steps=3, chains=2, temperatures=3, seed=seed
        )]
    ],
    "scores": lambda model, data, seed: [
        torch.tensor([found.mig.value, found.sap.value, found.informativeness.value])
        for found in [lb.scores(model, data, seed=seed)]
    ],
    "sandwich": lambda model, data, seed: [
        lb.evaluation.sandwich(model, 10, chains=2, temperatures=5, seed=seed).lower
    ],
    "sample": lambda model, data, seed: [model.sample(100, seed=seed)],
    "encode": lambda model, data, seed: [model.encode(data.examples("test"))],
    "reconstruct": lambda model, data, seed: [model.reconstruct(data.examples("test"))],
}  # fmt: skip


@pytest.mark.parametrize("name", MODEL_CALLS)
def test_calls_on_one_model_at_once_give_what_each_gives_alone(name: str, few: Dataset) -> None:
    model, call = made(0), MODEL_CALLS[name]
    if name in ("gaps", "sandwich"):
        model = make_model(few)  # annealing needs the density of q at other points
    assert model.training
    alone = [call(model, few, seed) for seed in SEEDS]
    together = at_once(lambda seed: call(model, few, seed))
    for first, second in zip(alone, together, strict=True):
        assert are_equal(first, second)
    assert all(part.training for part in model.modules())


def nll(seed: int) -> float:
    """For other processes, too."""
    return measured(made(seed), seed, few_digits())


def measured(model: lb.VAE, seed: int, data: Dataset) -> float:
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, seed=seed, progress=False)
    return lb.evaluate(model, data, samples=5, seed=seed).nll.value


def test_processes_and_threads_of_joblib_give_what_each_gives_alone() -> None:
    joblib = pytest.importorskip("joblib")
    alone = [nll(seed) for seed in SEEDS]
    calls = [joblib.delayed(nll)(seed) for seed in SEEDS]
    assert joblib.Parallel(2, backend="loky")(calls) == alone
    # of a model's weights torch's global generator is the source: they are made one at a time
    models, data = [made(seed) for seed in SEEDS], few_digits()
    with disturbed():
        calls = [joblib.delayed(measured)(models[seed], seed, data) for seed in SEEDS]
        assert joblib.Parallel(4, backend="threading")(calls) == alone


class Waiting(lb.Callback):
    """Holds a training before its first step, until it is told to let it end."""

    def __init__(self) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def on_train_begin(self, training: Training) -> bool:
        self.has_begun.set()
        self.may_end.wait()
        return True


def test_two_compiled_trainings_at_once_are_refused_in_one_line(few: Dataset) -> None:
    first, second, plain = (make_model(few) for _ in range(3))
    waiting = Waiting()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            train, first, 0, few, compile=True, callbacks=[waiting]
        )  # fmt: skip
        try:
            waiting.has_begun.wait()
            with pytest.raises(ValueError, match=COMPILED) as caught:
                train(second, 0, few, compile=True)
            assert "\n" not in str(caught.value)
            train(plain, 0, few)  # it draws from a generator of its own
        finally:
            waiting.may_end.set()
        assert len(running.result()[0][0]) == 0  # it had no epoch
