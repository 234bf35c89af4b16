"""lowerbound as its users run it: a call of lb.fit that goes on for ever.

    python benchmarks/contestants/lowerbound_fit.py problem.npz '{"precision": "bf16-mixed"}'

The options are arguments of fit. Everything that fit does in an epoch is in the time: data,
transforms, optimiser, the check for finite gradients, sums, the line that is shown.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import torch
from channel import Channel
from plain import set_weights, told
from problem import NOISE_SEED, Given, load

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split
from lowerbound.training.callbacks import Training


class Clock(lb.Callback):
    """Tells the channel that a step begins: the first, and after each step the next.

    Args:
        channel: it waits there between two rounds.
    """

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def on_train_begin(self, training: Training) -> None:
        self.channel.step()

    def on_step_end(self, training: Training) -> None:
        self.channel.step()


def card(given: Given) -> Dataset:
    """The pictures of the problem as a user's card of MNIST has them."""
    whole = lb.data.load(
        "mnist", splits="train_test", binarize="dynamic" if given.problem.is_binary else None
    )
    values = torch.from_numpy(given.pictures).reshape(-1, *whole.event_shape)
    return Dataset(whole.name, {"train": Split(values)}, whole.stored_support, whole.transforms)


def build(given: Given, x_shape: tuple[int, ...]) -> lb.VAE:
    problem, z_shape = given.problem, (given.problem.latent,)
    if problem.is_convolutional:
        up = down = partial(lb.networks.Conv, width=problem.hidden[0])
    else:
        down, up = (
            partial(lb.networks.MLP, hidden=hidden, activation=problem.activation)
            for hidden in (problem.hidden, problem.hidden[::-1])
        )
    likelihood = (
        lb.likelihoods.Bernoulli if problem.is_binary else lb.likelihoods.BinaryCrossEntropy
    )
    model = lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(x_shape, z_shape, network=down),
        likelihood(z_shape, x_shape, network=up),
    )
    set_weights(given, model.posterior, model.likelihood)
    # lowerbound keeps what the biases of the pixels start from apart from them: it is no parameter
    if problem.is_binary:
        model.likelihood.prepare(torch.from_numpy(given.scale).view(-1, *x_shape))
        bias = list(model.likelihood.parameters())[-1]
        bias.data -= model.likelihood.base.reshape(bias.shape)
    return model


def main(file: str, **settings: object) -> None:
    given = load(file)
    problem, data = given.problem, card(given)
    model = build(given, data.event_shape)
    objective = lb.objectives.IWAE(problem.samples) if problem.samples > 1 else lb.objectives.ELBO()

    def check() -> dict[str, object]:
        x, half = (
            torch.from_numpy(given.x).view(-1, *data.event_shape),
            "bf16" in str(settings.get("precision")),
        )
        state = torch.get_rng_state()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            torch.manual_seed(NOISE_SEED)
            draw = model(x, samples=problem.samples)
            loss = objective(draw, lb.objective.Step(1.0, len(given.pictures))).total
        torch.set_rng_state(state)
        return told([model], loss, data.present("train", torch.arange(problem.batch)))

    how = {"epochs": 10**6, "batch_size": problem.batch, "device": "cpu", **settings}
    lb.fit(model, objective, data, **how, callbacks=[Clock(Channel({"check": check}))])


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
