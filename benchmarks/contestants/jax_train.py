"""JAX and optax: the whole step in one jitted function, its state donated, all data in one array.

    python benchmarks/contestants/jax_train.py problem.npz '{"precision": "bfloat16"}'

Runs inside the contestants' environment. In bfloat16 the networks compute in it and densities are
summed in float32, as under torch's autocast; the weights stay float32.
"""

from __future__ import annotations

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from channel import Channel
from problem import SIDE, Problem, load

ACTIVATIONS = {"ReLU": jax.nn.relu, "Tanh": jnp.tanh, "SiLU": jax.nn.silu}
PICTURES = ("NHWC", "HWIO", "NHWC")  # what XLA is fast with on a CPU


def from_torch(weights: list[np.ndarray]) -> list[tuple[jax.Array, jax.Array]]:
    """(weight, bias) of each layer: matrices (in, out), kernels (3, 3, in, out), or (3, 3, out, in)
    of transposed ones.
    """
    pairs = zip(weights[::2], weights[1::2], strict=True)
    return [
        (jnp.asarray(w.T if w.ndim == 2 else w.transpose(2, 3, 1, 0)), jnp.asarray(b))
        for w, b in pairs
    ]


def networks(problem: Problem, dtype: jnp.dtype):
    """Encoder and decoder as functions of (layers, values), both on flat pictures."""
    activation = ACTIVATIONS[problem.activation]

    def dense(layer, value):
        weight, bias = layer
        return value.astype(dtype) @ weight.astype(dtype) + bias.astype(dtype)

    def fully_connected(layers, value):
        for layer in layers[:-1]:
            value = activation(dense(layer, value))
        return dense(layers[-1], value)

    def down(layer, value):
        weight, bias = (part.astype(dtype) for part in layer)
        out = jax.lax.conv_general_dilated(
            value.astype(dtype), weight, (2, 2), [(1, 1), (1, 1)], dimension_numbers=PICTURES
        )
        return out + bias

    def up(layer, value):
        """torch's ConvTranspose2d(3, stride=2, padding=1, output_padding=1)."""
        weight, bias = (part.astype(dtype) for part in layer)
        kernel = jnp.flip(weight, (0, 1)).swapaxes(2, 3)
        out = jax.lax.conv_general_dilated(
            value.astype(dtype),
            kernel,
            (1, 1),
            [(1, 2), (1, 2)],
            lhs_dilation=(2, 2),
            dimension_numbers=PICTURES,
        )
        return out + bias

    def encode(layers, x):
        value = x.reshape(-1, SIDE, SIDE, 1)
        for layer in layers[:-1]:
            value = activation(down(layer, value))
        return dense(
            layers[-1], value.transpose(0, 3, 1, 2).reshape(len(value), -1)
        )  # flat in the order of torch

    def decode(layers, z):
        least = SIDE // 4
        value = dense(layers[0], z).reshape(len(z), -1, least, least).transpose(0, 2, 3, 1)
        for layer in layers[1:]:
            value = up(layer, activation(value))
        return value.reshape(len(value), -1)

    return (encode, decode) if problem.is_convolutional else (fully_connected, fully_connected)


def make_loss(problem: Problem, dtype: jnp.dtype):
    encode, decode = networks(problem, dtype)

    def loss_of(layers, x, eps):
        """Mean loss of x (B, 784) for noise eps (K, B, Z)."""
        middle = len(layers) // 2
        mu, log_var = jnp.split(encode(layers[:middle], x).astype(jnp.float32), 2, 1)
        z = mu + jnp.exp(0.5 * log_var) * eps
        logits = decode(layers[middle:], z.reshape(-1, problem.latent)).astype(jnp.float32)
        log_px = (
            logits.reshape(*eps.shape[:2], -1) * x
            - jax.nn.softplus(logits).reshape(*eps.shape[:2], -1)
        ).sum(-1)
        if problem.samples == 1:
            return (0.5 * (mu**2 + jnp.exp(log_var) - 1 - log_var).sum(-1) - log_px[0]).mean()
        log_w = log_px - 0.5 * (z**2 - eps**2 - log_var).sum(-1)
        return (math.log(problem.samples) - jax.nn.logsumexp(log_w, 0)).mean()

    return loss_of


def main(file: str, precision: str = "float32") -> None:
    given = load(file)
    problem = given.problem
    layers = from_torch(given.weights)
    loss_of = make_loss(problem, jnp.dtype(precision))
    optimizer = optax.adam(1e-3)
    data = jnp.asarray(given.scale)
    shape = (problem.samples, problem.batch, problem.latent)

    def presented(x, key):
        return jax.random.bernoulli(key, x).astype(jnp.float32) if problem.is_binary else x

    @jax.jit
    def check_loss(layers, x, eps):
        return loss_of(layers, x, eps)

    def step(state, data, index):
        layers, moments, key, total = state
        key, of_x, of_z = jax.random.split(key, 3)
        x = presented(data[index], of_x)
        loss, gradient = jax.value_and_grad(loss_of)(layers, x, jax.random.normal(of_z, shape))
        updates, moments = optimizer.update(gradient, moments)
        return optax.apply_updates(layers, updates), moments, key, total + loss

    step = jax.jit(step, donate_argnums=0)
    # a generator that is cheap on a CPU: threefry, JAX's default, is not
    state = (layers, optimizer.init(layers), jax.random.key(0, impl="unsafe_rbg"), jnp.zeros(()))
    orders = np.random.default_rng(0)

    def one_epoch() -> None:
        nonlocal state
        state = (*state[:3], jnp.zeros(()))
        order = orders.permutation(len(data))
        for start in range(0, len(order), problem.batch):
            channel.step()
            state = step(state, data, order[start : start + problem.batch])

    def check() -> dict[str, object]:
        batch = np.asarray(presented(data[: problem.batch], jax.random.key(1)))
        return {
            "parameters": sum(part.size for part in jax.tree.leaves(state[0])),
            "loss": float(check_loss(state[0], given.x, given.eps)),
            "mean": float(batch.mean()),
            "is_binary": bool(((batch == 0) | (batch == 1)).all()),
            "batch": len(batch),
        }

    channel = Channel({"check": check}, settle=lambda: jax.block_until_ready(state))
    while True:
        one_epoch()


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
