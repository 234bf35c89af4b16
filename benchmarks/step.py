"""The time of a training step: lowerbound, loops written by hand, the tutorials', pythae, Pyro and
JAX, and the floor.

    python benchmarks/step.py                                        # everything, about half an
    hour on two cores python benchmarks/step.py --models a --rounds 2 --steps 20       # does it
    run? a few minutes

All train the same model on the same pictures of MNIST with the same objective: before the first
round each is given the same weights, batch and noise, and must find the loss that
torch.distributions gives in float64, with as many parameters, and must binarise where the others
do. A round is --steps steps as the contestant's users run them, out of epochs over MNIST's training
pictures (all that fill a batch): data, draws, forward, backward, optimiser, and whatever its loop
does beside. Rounds are short against what drifts, and go on where the last one stopped. "loss" in
the table is that of the same batch and noise after the last round: all have made as many steps, so
it tells whether all have learned. (pythae's at K = 50 is of a surrogate that has the gradient of
the bound, not its value.)

The floor is the floating-point operations of the step over the rate of a 2048-cube matrix product
in the same precision, plus the bytes that Adam moves over the rate of copying, both measured in
every round on the same cores.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from environment import CONTESTANTS, install
from interleaved import (
    KEEP_MEMORY,
    Ratio,
    Worker,
    arguments,
    conditions,
    interleave,
    paired,
    positive,
    table,
)
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

import lowerbound as lb

sys.path.insert(0, str(CONTESTANTS))
from plain import networks, parameters
from problem import NOISE_SEED, PROBLEMS, Problem, save

TRAINED = 60_000  # pictures that MNIST has for training
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # relative, of the loss
WIDE = 1.2  # ends of an interval further apart than this decide nothing


@dataclass(frozen=True)
class Contestant:
    """A program in contestants/ that trains the problem.

    Args:
        script: its file.
        options: given to it as JSON.
        precision: of its arithmetic.
        is_foreign: whether it runs in the contestants' environment.
    """

    script: str
    options: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    is_foreign: bool = False


# what lb.fit may be told to be faster, by name; the fastest of each precision is what the claims
# are about
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "lowerbound": ("float32", {}),
    "lowerbound, compiled": ("float32", {"compile": True}),
    "lowerbound, bf16-mixed": ("bfloat16", {"precision": "bf16-mixed"}),
    "lowerbound, compiled, bf16-mixed": ("bfloat16", {"precision": "bf16-mixed", "compile": True}),
}
ENTRANTS = {
    "tutorial": Contestant("tutorial.py"),
    "eager": Contestant("handwritten.py"),
    "eager, bfloat16": Contestant("handwritten.py", {"precision": "bfloat16"}, "bfloat16"),
    "compiled": Contestant("handwritten.py", {"compiled": True}),
    "compiled, bfloat16": Contestant(
        "handwritten.py", {"compiled": True, "precision": "bfloat16"}, "bfloat16"
    ),
    **{
        name: Contestant("lowerbound_fit.py", given, precision)
        for name, (precision, given) in SETTINGS.items()
    },
    "pythae": Contestant("pythae_train.py", is_foreign=True),
    "pyro": Contestant("pyro_train.py", is_foreign=True),
    "jax": Contestant("jax_train.py", is_foreign=True),
    "jax, bfloat16": Contestant(
        "jax_train.py", {"precision": "bfloat16"}, "bfloat16", is_foreign=True
    ),
}


def mnist(n: int) -> Tensor:
    """N training pictures, (n, 784), uint8, the same ones in the same order for the same n."""
    stored = lb.data.load("mnist", splits="train_test")["train"].values
    if n > len(stored):
        sys.exit(f"there are {len(stored):,} pictures, and {n:,} were asked for")
    order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(0))
    return stored[order[:n]].flatten(1)


def prepare(
    key: str, pictures: Tensor, file: Path, examples: int | None = None
) -> dict[str, float]:
    """Write the problem, and say what every contestant must find on its first examples (a batch of
    them).
    """
    problem = PROBLEMS[key]
    examples = examples or problem.batch
    torch.manual_seed(0)
    pair = networks(problem)
    if problem.is_binary:  # the biases of the pixels start from their mean, as lowerbound's do
        parameters(*pair)[-1].data = (
            (pictures.double().mean(0) / 255).clamp(1e-3, 1 - 1e-3).logit().float()
        )
    x = pictures[:examples].float() / 255
    x = torch.bernoulli(x) if problem.is_binary else x
    torch.manual_seed(NOISE_SEED)
    eps = torch.randn(problem.samples, examples, problem.latent)
    arrays = {"pictures": pictures.numpy(), "x": x.numpy(), "eps": eps.numpy()}
    save(file, key, arrays, [p.detach().numpy() for p in parameters(*pair)])
    with torch.no_grad():
        bound, surrogate = exact(*(net.double() for net in pair), x.double(), eps.double())
    return {
        "parameters": sum(p.numel() for p in parameters(*pair)),
        "loss": float(bound),
        # pythae's IWAE has the gradient of the bound and reports another value
        "surrogate": float(surrogate),
        "mean": float(pictures.double().mean() / 255),
        "batch": examples,
    }


def exact(encoder: Callable, decoder: Callable, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The mean loss by torch.distributions, and -sum_k v_k log w_k with the normalised weights
    v.
    """
    mu, log_var = encoder(x).chunk(2, 1)
    q = Independent(Normal(mu, (0.5 * log_var).exp()), 1)
    p = Independent(Normal(torch.zeros_like(mu), 1.0), 1)
    z = mu + q.base_dist.scale * eps
    logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    log_px = Independent(Bernoulli(logits=logits, validate_args=False), 1).log_prob(x)
    if len(eps) == 1:
        loss = (kl_divergence(q, p) - log_px[0]).mean()
        return loss, loss
    log_w = log_px + p.log_prob(z) - q.log_prob(z)
    return (math.log(len(eps)) - log_w.logsumexp(0)).mean(), -(log_w.softmax(0) * log_w).sum(
        0
    ).mean()


def disagreements(
    told: Mapping[str, Any], known: Mapping[str, float], problem: Problem, precision: str
) -> list[str]:
    """What a contestant does otherwise than it must, in words."""
    off = [
        f"{n} is {told[n]}, not {known[n]}" for n in ("parameters", "batch") if told[n] != known[n]
    ]
    if (
        not min(abs(told["loss"] / known[n] - 1) for n in ("loss", "surrogate"))
        <= TOLERANCE[precision]
    ):
        off.append(f"the loss is {told['loss']:.6g}, not {known['loss']:.6g}")
    if told["is_binary"] != problem.is_binary:
        off.append(f"the pictures are {'' if told['is_binary'] else 'not '}binarised")
    if not abs(told["mean"] - known["mean"]) < 0.02:
        off.append(f"the mean of a batch is {told['mean']:.3f}, not about {known['mean']:.3f}")
    return off


@dataclass(frozen=True)
class Measured:
    """What was found for one problem.

    Args:
        seconds: of a step, by contestant and round; the floors among them, as "floor, float32" and
            "floor, bfloat16".
        losses: on the batch of the check, after the last round.
    """

    seconds: dict[str, list[float]]
    losses: dict[str, float]

    def ratio(self, name: str, other: str) -> Ratio:
        return paired(self.seconds[name], self.seconds[other])

    def milliseconds(self, name: str) -> float:
        return 1e3 * statistics.median(self.seconds[name])

    def fastest(self, names: list[str]) -> str | None:
        return min(
            (name for name in names if name in self.seconds), key=self.milliseconds, default=None
        )


def measure(key: str, entrants: Mapping[str, Contestant], steps: int, rounds: int, threads: int,
            environment: Mapping[str, str]) -> Measured:  # fmt: skip
    """All contestants on one problem."""
    problem = PROBLEMS[key]
    # an environment that nobody here runs in would be minutes and gigabytes for nothing
    foreign = (
        install() if any(one.is_foreign for one in entrants.values()) else Path(sys.executable)
    )
    with ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "problem.npz"
        known = prepare(key, mnist(TRAINED // problem.batch * problem.batch), file)
        workers = {}
        for name, one in {**entrants, "rates": Contestant("rates.py")}.items():
            # -E -s: nothing of this environment reaches the other one
            python = [foreign, "-E", "-s"] if one.is_foreign else [sys.executable]
            command = [*python, CONTESTANTS / one.script, file, json.dumps(dict(one.options))]
            workers[name] = Worker(name, command, threads, environment)
            stack.callback(workers[name].close)
        for name, one in entrants.items():
            if off := disagreements(workers[name].ask("check"), known, problem, one.precision):
                sys.exit(f"{name} does not train the same model on {key}: {'; '.join(off)}")
        rates = workers.pop("rates")
        need = rates.ask("floor")

        def at_the_moment() -> dict[str, float]:
            rates.ask("round")
            return rates.ask("rates")

        turns = {
            name: lambda one=worker: one.ask(f"round {steps}")["seconds"] / steps
            for name, worker in workers.items()
        }
        found = interleave({**turns, "rates": at_the_moment}, rounds)
        measured = found.pop("rates")
        for precision in TOLERANCE:
            found[f"floor, {precision}"] = [
                need["flops"] / rate[precision] + need["bytes"] / rate["copy"] for rate in measured
            ]
        losses = {name: worker.ask("check")["loss"] for name, worker in workers.items()}
    print(
        f"a step: {need['flops'] / 1e9:.2f} GFLOP, Adam {need['bytes'] / 1e6:.1f} MB; medians of "
        "the rates: "
        + ", ".join(
            f"{name} {statistics.median(rate[name] for rate in measured) / 1e9:.0f}"
            for name in measured[0]
        )
        + " (GFLOP/s, GFLOP/s, GB/s)"
    )
    return Measured(found, losses)


def rows(found: Measured, entrants: Mapping[str, Contestant]) -> list[list[str]]:
    lines = []
    for name in found.seconds:
        precision = entrants[name].precision if name in entrants else name.removeprefix("floor, ")
        against = str(found.ratio(name, "eager")) if "eager" in found.seconds else ""
        loss = f"{found.losses[name]:.2f}" if name in found.losses else ""
        lines.append(
            [
                name,
                f"{found.milliseconds(name):.3f}",
                against,
                str(found.ratio(name, f"floor, {precision}")),
                loss,
            ]
        )
    return lines


def claims(key: str, found: Measured) -> list[list[str]]:
    """What is to hold, as [what, ratio, bound, verdict]; only of contestants that took part."""
    of = {
        p: found.fastest([name for name, (own, _) in SETTINGS.items() if own == p])
        for p in TOLERANCE
    }
    fastest = found.fastest(list(SETTINGS))
    limit = 1.1 if key == "c" else 1.05
    reported = ("reported", None)
    floor = ("at most 1.7", lambda r: r.value <= 1.7) if key == "a" else reported

    def times(least: float) -> tuple[str, Callable[[Ratio], bool] | None]:
        """Of c nothing is claimed against these: most of it is convolutions, which all leave to the
        same library.
        """
        return reported if key == "c" else (f"at least {least}", lambda r: r.value >= least)

    wanted: list[tuple[str | None, str | None, str, Callable[[Ratio], bool] | None]] = [
        ("lowerbound", "eager", f"at most {limit}", lambda r: r.value <= limit),
        (fastest, "compiled, bfloat16", "interval reaches 1.03 or less", lambda r: r.low <= 1.03),
        (of["float32"], "jax", "interval reaches 1.03 or less", lambda r: r.low <= 1.03),
        (of["bfloat16"], "jax, bfloat16", "interval reaches 1.03 or less", lambda r: r.low <= 1.03),
        (of["bfloat16"], "floor, bfloat16", *floor),
        ("tutorial", fastest, *times(4)),
        ("pythae", fastest, *times(2.5)),
    ]  # fmt: skip
    told = []
    for name, other, bound, holds in wanted:
        if name in found.seconds and other in found.seconds:
            ratio = found.ratio(name, other)
            verdict = "" if holds is None else "holds" if holds(ratio) else "does not hold"
            # an interval that holds everything would reach any bound; one on one side of it tells,
            # however wide
            sides = (
                set()
                if holds is None
                else {holds(Ratio(end, end, end)) for end in (ratio.low, ratio.high)}
            )
            if len(sides) > 1 and ratio.high > WIDE * ratio.low:
                verdict = "too noisy to tell"
            told.append([f"{name} / {other}", str(ratio), bound, verdict])
    return told


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument(
        "--models",
        nargs="+",
        choices=PROBLEMS,
        default=list(PROBLEMS),
        help="which; all by default",
    )
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=ENTRANTS,
        default=list(ENTRANTS),
        metavar="NAME",
        help=f"which of {', '.join(repr(name) for name in ENTRANTS)}; all by default",
    )
    parser.add_argument(
        "--steps",
        type=positive,
        help="steps of a round; " + ", ".join(f"{p.steps} on {key}" for key, p in PROBLEMS.items()),
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="raise glibc's allocator thresholds for all of them",
    )
    given = parser.parse_args()
    environment = KEEP_MEMORY if given.keep_memory else {}
    print(
        conditions(
            given.threads,
            rounds=given.rounds,
            allocator="thresholds raised" if environment else "as it is",
        )
    )
    for key in given.models:
        problem = PROBLEMS[key]
        # the tutorials draw once
        entrants = {
            n: ENTRANTS[n] for n in given.contestants if problem.samples == 1 or n != "tutorial"
        }
        steps = given.steps or problem.steps
        print(f"\n({key}) {problem.title}; rounds of {steps} steps")
        found = measure(key, entrants, steps, given.rounds, given.threads, environment)
        print(table(["", "ms/step", "to eager", "to the floor", "loss"], rows(found, entrants)))
        print()
        print(table(["ratio", "", "should be", ""], claims(key, found)), flush=True)


if __name__ == "__main__":
    main()
