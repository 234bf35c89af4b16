"""The loop of the tutorials: pictures transformed one at a time, cross-entropy on probabilities,
loss.item() at every step.

    python benchmarks/contestants/tutorial.py problem.npz '{}'

A torch DataLoader over a data set that does for each picture what torchvision's MNIST and ToTensor
do (torchvision itself has no build for every CPU): uint8 -> PIL -> numpy -> float tensor in [0, 1].
Adam with its defaults; the summed loss.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from channel import Channel
from PIL import Image
from plain import networks, set_weights, told, x_and_eps
from problem import PIXELS, SIDE, Given, load
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.utils.data import DataLoader, Dataset


def to_tensor(picture: Image.Image) -> Tensor:
    """As torchvision's ToTensor: (C, H, W) in [0, 1]."""
    values = torch.from_numpy(np.array(picture, np.uint8, copy=True))
    return (
        values.view(picture.size[1], picture.size[0], 1)
        .permute(2, 0, 1)
        .contiguous()
        .to(torch.float32)
        .div(255)
    )


class Pictures(Dataset):
    def __init__(self, values: Tensor, is_binary: bool) -> None:
        self.values, self.is_binary = values, is_binary

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> Tensor:
        x = to_tensor(Image.fromarray(self.values[index].numpy()))
        return torch.bernoulli(x) if self.is_binary else x


class Tutorial(nn.Module):
    """Encoder, reparameterisation, decoder and sigmoid, returning all that the loss needs."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor, eps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        mu, log_var = self.encoder(x).chunk(2, 1)
        std = torch.exp(0.5 * log_var)
        eps = torch.randn_like(std) if eps is None else eps
        return torch.sigmoid(self.decoder(mu + eps * std)), mu, log_var


def loss_of(x_hat: Tensor, x: Tensor, mu: Tensor, log_var: Tensor) -> Tensor:
    cross_entropy = binary_cross_entropy(x_hat, x, reduction="sum")
    return cross_entropy - 0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())


def train(
    model: Tutorial, given: Given, epochs: int, at_step: Callable[[], object] = lambda: None
) -> Iterator[float]:
    """The loop; yields the mean loss of each epoch."""
    pictures = Pictures(
        torch.from_numpy(given.pictures).view(-1, SIDE, SIDE), given.problem.is_binary
    )
    loader = DataLoader(pictures, batch_size=given.problem.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(epochs):
        model.train()
        total = 0.0
        batches = iter(loader)
        for _ in range(len(loader)):
            at_step()
            x = next(batches).view(-1, PIXELS)
            optimizer.zero_grad()
            x_hat, mu, log_var = model(x)
            loss = loss_of(x_hat, x, mu, log_var)
            loss.backward()
            total += loss.item()
            optimizer.step()
        yield total / len(pictures)


def main(file: str) -> None:
    given = load(file)
    if given.problem.samples > 1:
        sys.exit("the tutorials draw once")
    model = Tutorial(*networks(given.problem))
    set_weights(given, model.encoder, model.decoder)

    def check() -> dict[str, object]:
        x, eps = x_and_eps(given)
        pictures = Pictures(
            torch.from_numpy(given.pictures).view(-1, SIDE, SIDE), given.problem.is_binary
        )
        with torch.no_grad():
            x_hat, mu, log_var = model(x, eps[0])
            batch = torch.stack([pictures[i] for i in range(given.problem.batch)])
            return told([model], loss_of(x_hat, x, mu, log_var) / len(x), batch)

    channel = Channel({"check": check})
    for _ in train(model, given, 10**6, channel.step):
        pass


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
