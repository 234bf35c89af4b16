"""What pythae says about the linear model of known_evidence.py; runs inside pythae's environment,
on these files alone.

    python benchmarks/contestants/pythae_evidence.py problem.npz '[[250, null], [250, 50]]'

asks for pythae's training loss and for get_nll at each [n_samples, batch_size], null for its
default, and prints JSON. Called by known_evidence.py.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np
import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor
from torch.nn.functional import linear


class Encoder(BaseEncoder):
    """N(A x + c, diag(exp(log_var)))."""

    def __init__(self, matrix: Tensor, offset: Tensor, log_var: Tensor) -> None:
        super().__init__()
        self.matrix, self.offset, self.log_var = matrix, offset, log_var

    def forward(self, x: Tensor) -> ModelOutput:
        mu = linear(x, self.matrix, self.offset)
        return ModelOutput(embedding=mu, log_covariance=self.log_var.expand_as(mu))


class Decoder(BaseDecoder):
    """W z + b, counting how often it is asked."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.rows = 0

    def forward(self, z: Tensor) -> ModelOutput:
        self.rows += len(z)
        return ModelOutput(reconstruction=linear(z, self.weight, self.bias))


def build(problem: dict[str, Tensor]) -> VAE:
    x_dim, z_dim = problem["weight"].shape
    config = VAEConfig(input_dim=(x_dim,), latent_dim=z_dim, reconstruction_loss="mse")
    encoder = Encoder(problem["matrix"], problem["offset"], problem["log_var"])
    return VAE(config, encoder, Decoder(problem["weight"], problem["bias"])).eval()


def answer(
    model: VAE, x: Tensor, ask: Callable[[Tensor], float], call: str, asked: int
) -> dict[str, object]:
    """What one call on all data returns, and what it returns for each example alone.

    pythae gives means over examples without a standard error. get_nll goes through the examples one
    by one, so from one seed the mean of what it returns for each is what it returns for all; a
    batch's loss is of one draw for all.
    """
    torch.manual_seed(0)
    model.decoder.rows = 0
    returned = float(ask(x))
    made = model.decoder.rows / len(x)
    torch.manual_seed(0)
    values = [float(ask(row)) for row in x.split(1)]
    return {"call": call, "asked": asked, "made": made, "returned": returned, "values": values}


def main(file: str, calls: list[tuple[int, int | None]]) -> None:
    torch.set_num_threads(1)  # a hundred rows of ten numbers at a time
    problem = {name: torch.from_numpy(array) for name, array in np.load(file).items()}
    model, x = build(problem), problem["x"]
    with torch.no_grad():
        answers = [answer(model, x, lambda data: model({"data": data}).loss, "VAE()(data).loss", 1)]
        for samples, batch_size in calls:
            options = {} if batch_size is None else {"batch_size": batch_size}
            call = (
                f"VAE.get_nll(data, {samples}{''.join(f', {k}={v}' for k, v in options.items())})"
            )
            answers.append(
                answer(
                    model, x, partial(model.get_nll, n_samples=samples, **options), call, samples
                )
            )
    print(json.dumps({"pythae": version("pythae"), "torch": torch.__version__, "answers": answers}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
