"""What is done once by one process and once by several, to be compared:
``python -m tests.together FOLDER NAME ...``.

Each name is a combination of parts (:mod:`tests.composition`) or one of ``OTHERS``, and may end in
" / pieces"; its weights and epochs go to the folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.processes import leave, together
from lowerbound.parallel.shards import replicated
from lowerbound.runs.tensors import write_tensors
from tests import composition

Case = tuple[Model, Objective, Dataset]


class Careless(lb.objectives.ELBO):
    """An objective that takes its share of a batch for the whole."""

    batch_statistics = True


class Lottery(nn.Module):
    """A network that draws as many numbers as its examples ask for."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = lb.networks.MLP(in_shape, out_shape)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        with replicated():
            torch.rand(int(value.detach().sum().round().abs()))
        result: torch.Tensor = self.net(value)
        return result


class NoisyWeights(nn.Module):
    """A network whose last layer has noise in its weights: as many numbers as a share of six
    examples has.
    """

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = lb.networks.MLP(in_shape, (6,))
        self.head = lb.networks.MLP((6,), out_shape)

    def noise(self) -> torch.Tensor:
        return torch.randn(6)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.body(value)
        scale = 1 + 0.1 * self.noise().to(hidden) if self.training else 1.0
        result: torch.Tensor = self.head(hidden * scale)
        return result


class ReplicatedWeights(NoisyWeights):
    """The same, drawn alike in every process."""

    def noise(self) -> torch.Tensor:
        with replicated():
            return super().noise()


class Dropped(nn.Module):
    """A network that leaves out units."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.net = nn.Sequential(
            lb.networks.MLP(in_shape, (20,)),
            nn.Dropout(0.3),
            nn.ReLU(),
            lb.networks.MLP((20,), out_shape),
        )

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.net(value)
        return result


def _binary() -> Dataset:
    return composition.data_for("Bernoulli")


def _vae(data: Dataset, network: Callable[..., nn.Module] = lb.networks.MLP) -> lb.VAE:
    x_shape, z_shape = data.event_shape, (3,)
    return lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(x_shape, z_shape, network=network),
        lb.likelihoods.Bernoulli(z_shape, x_shape, network=network),
    )


def _restarting(data: Dataset) -> lb.VAE:
    """With codes that start again all the time."""
    x_shape, z_shape = data.event_shape, (2, 3)
    return lb.VAE(
        lb.priors.IndependentCodes(z_shape, codes=8),
        lb.posteriors.VectorQuantised(x_shape, z_shape, codes=8, decay=0.5, restart=0.9),
        lb.likelihoods.Bernoulli(z_shape, x_shape),
    )


OTHERS: dict[str, Callable[[Dataset], tuple[Model, Objective]]] = {
    "batch_norm": lambda data: (
        _vae(data, partial(lb.networks.MLP, hidden=(20,), batch_norm=True)),
        lb.objectives.IWAE(samples=2),
    ),
    "dropout": lambda data: (_vae(data, Dropped), lb.objectives.IWAE(samples=2)),
    "one left": lambda data: (_vae(data), lb.objectives.ELBO()),
    "drawn anew": lambda data: (_vae(data), lb.objectives.ELBO()),
    "path gradients": lambda data: (_vae(data, Dropped), lb.objectives.ELBO(path_gradient=True)),
    "clipped": lambda data: (_vae(data), lb.objectives.ELBO()),
    "codes": lambda data: (_restarting(data), lb.objectives.ELBO()),
    "replicated weights": lambda data: (_vae(data, ReplicatedWeights), lb.objectives.ELBO()),
}
REFUSED: dict[str, Callable[[Dataset], tuple[Model, Objective]]] = {
    "careless": lambda data: (_vae(data), Careless()),
    "lottery": lambda data: (_vae(data, Lottery), lb.objectives.ELBO()),
    "noisy weights": lambda data: (_vae(data, NoisyWeights), lb.objectives.ELBO()),
}  # fmt: skip
HOW: dict[str, dict[str, Any]] = {
    "replicated weights": {"batch_size": 12},  # shares of six examples
    "one left": {"batch_size": 47},  # of 48: the second process has nothing to do in the last batch
    "drawn anew": {"batch_size": 301},
    "clipped": {"clip": 1.0, "schedule": "cosine", "precision": "bf16-mixed"},
}


def case(name: str) -> tuple[Model, Objective, Dataset]:
    """Model, objective and data, always with the same initial weights."""
    torch.manual_seed(0)
    if name in OTHERS | REFUSED:
        data = lb.data.load("digits", binarize="dynamic") if name == "drawn anew" else _binary()
        return (*(OTHERS | REFUSED)[name](data), data)
    combination = tuple(name.split())
    data = composition.data_for(combination[2])
    return (*composition.compose(combination, data), data)


def train(folder: Path, names: Iterable[str], **how: Any) -> None:
    """Train each for two epochs in float64, in which rounding stays small; batches are odd, so that
    shares differ.
    """
    for name in names:
        if name in REFUSED:
            be_refused(folder, name)
            continue
        combination, _, pieces = name.partition(" / ")
        model, objective, data = case(combination)
        settings = {
            "epochs": 2,
            "batch_size": 13,
            "precision": "64-true",
            "device": "cpu",
            "progress": False,
        }
        settings |= HOW.get(combination, {}) | ({"accumulate": int(pieces)} if pieces else {}) | how
        # settings of several types
        history = lb.fit(model, objective, data, **settings)  # type: ignore[arg-type]
        result = lb.evaluate(model, data, "train", samples=3, batch_size=7)
        if together().is_first:
            tensors = {f"model.{key}": value for key, value in model.state_dict().items()}
            tensors |= {f"objective.{key}": value for key, value in objective.state_dict().items()}
            write_tensors(folder / f"{name.replace('/', 'in')}.safetensors", tensors)
            epochs = [
                {key: epoch[key] for key in ("train", "valid", "skipped_steps")}
                for epoch in history.epochs
            ]
            content = {"epochs": epochs, "evaluation": result.as_json()}
            (folder / f"{name.replace('/', 'in')}.json").write_text(json.dumps(content))


def die(folder: Path) -> None:
    """Train with a second process that is killed in the first epoch."""
    model, objective, data = case("one left")
    steps = iter(range(3))

    def kill(*_: object) -> None:
        if together().rank == 1 and next(steps, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    model.register_forward_hook(kill)
    lb.fit(
        model,
        objective,
        data,
        epochs=4,
        batch_size=13,
        progress=False,
        out=folder / "run",
        checkpoint_seconds=0,
    )


def compiled(folder: Path) -> None:
    """Train without and with compilation."""
    for name in ("plain", "compiled"):
        model, objective, data = case("dropout")
        history = lb.fit(
            model,
            objective,
            data,
            epochs=2,
            batch_size=13,
            progress=False,
            compile=name == "compiled",
        )
        if together().is_first:
            (folder / name).write_text(json.dumps(history.series("loss")))


def be_refused(folder: Path, name: str) -> None:
    """Write what is said against training it, in this process."""
    model, objective, data = case(name)
    try:
        lb.fit(model, objective, data, epochs=1, batch_size=13, device="cpu", progress=False)
    except ValueError as error:
        (folder / f"{name} {together().rank}").write_text(str(error))


if __name__ == "__main__":
    if sys.argv[2:] == ["compiled"]:
        compiled(Path(sys.argv[1]))
    elif sys.argv[2:] == ["die"]:
        die(Path(sys.argv[1]))
    else:
        train(Path(sys.argv[1]), sys.argv[2:])
    leave(0)
