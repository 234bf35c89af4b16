"""pythae as its users run it: BaseTrainer.train over a tensor, with its callbacks; the epochs are
the rounds.

    python benchmarks/contestants/pythae_train.py problem.npz '{}'

Runs inside the contestants' environment. The networks are those of the problem in pythae's own base
classes. Pictures are binarised once a batch, which is kinder than a data set that does it one
picture at a time.
"""

from __future__ import annotations

import json
import sys
import tempfile

import torch
from channel import Channel
from plain import binarised, networks, set_weights, told
from problem import NOISE_SEED, PIXELS, load
from pythae.data.datasets import BaseDataset
from pythae.models import IWAE, VAE, IWAEConfig, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn


class Encoder(BaseEncoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> ModelOutput:
        mu, log_var = self.net(x).chunk(2, 1)
        return ModelOutput(embedding=mu, log_covariance=log_var)


class Decoder(BaseDecoder):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.net(z)))


class BinaryVAE(VAE):
    """Draws the pictures as ones and zeros at each presentation."""

    def forward(self, inputs, **kwargs):
        return super().forward({**inputs, "data": binarised(inputs["data"])}, **kwargs)


class BinaryIWAE(IWAE):
    """The same."""

    def forward(self, inputs, **kwargs):
        return super().forward({**inputs, "data": binarised(inputs["data"])}, **kwargs)


def main(file: str) -> None:
    given = load(file)
    problem = given.problem
    data = torch.from_numpy(given.scale)
    shape = {"input_dim": (PIXELS,), "latent_dim": problem.latent, "reconstruction_loss": "bce"}
    encoder, decoder = networks(problem)
    parts = Encoder(encoder), Decoder(decoder)
    if problem.samples > 1:
        kind = BinaryIWAE if problem.is_binary else IWAE
        model = kind(IWAEConfig(number_samples=problem.samples, **shape), *parts)
    else:
        kind = BinaryVAE if problem.is_binary else VAE
        model = kind(VAEConfig(**shape), *parts)
    set_weights(given, model.encoder, model.decoder)
    trained_as = type(model).__mro__[1] if problem.is_binary else type(model)

    def check() -> dict[str, object]:
        eps = torch.from_numpy(given.eps)
        # its noise is (B, Z), or (B, K, Z): that of the file in pythae's order
        model._sample_gauss = lambda mu, std: (
            mu + std * (eps[0] if mu.ndim == 2 else eps.transpose(0, 1)),
            eps,
        )
        with torch.no_grad():
            loss = trained_as.forward(model, {"data": torch.from_numpy(given.x)}).loss
        del model._sample_gauss
        x = data[: problem.batch]
        return told([model.encoder, model.decoder], loss, binarised(x) if problem.is_binary else x)

    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=10**6,
            per_device_train_batch_size=problem.batch,
            learning_rate=1e-3,
            optimizer_cls="Adam",
            seed=NOISE_SEED,
        )
        channel = Channel({"check": check})
        dataset = BaseDataset(data, torch.zeros(len(data)))
        model.register_forward_pre_hook(
            lambda *_: channel.step()
        )  # what it calls a train step is an epoch
        BaseTrainer(model, dataset, training_config=config).train()


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
