"""Are the numbers what they are called? A model of exactly known evidence, in lowerbound and in
pythae 0.1.2.

    python benchmarks/known_evidence.py

takes some fifteen seconds on one core; the first time it also installs pythae (PyPI, no dependency
of lowerbound) and the other contestants of the benchmarks into an environment of their own,
.bench/contestants. It exits with 1 if a number of lowerbound's has the wrong sign or number of
draws, or is more than four standard errors from what it should be.

The model is a linear VAE, that is probabilistic PCA (Tipping and Bishop 1999):

    p(z) = N(0, I),   p(x|z) = N(W z + b, I),   hence   p(x) = N(b, W W' + I)

Unit variance, because that is what pythae's reconstruction_loss="mse" stands for: VAE.get_nll
scores x by the log-density of N(W z + b, I) with its constant, VAE.loss_function by half the
squared distance, without the constant D/2 log(2 pi), which changes no gradient. (pythae asks for
reconstructions in [0, 1] by convention; neither function assumes it.) The columns of W are
orthogonal, so that the exact posterior is diagonal; the encoder given to both is that posterior
with its standard deviations times s, whose gap is the same for every x and known:

    log p(x) - ELBO    = Z ((s^2 - 1)/2 - log s)
    log p(x) - E[L_K]  = -E log (1/K) sum_k r_k,   log r = Z log s - (s^2 - 1)/2 c,   c ~ chi^2 with
                                                   Z d.o.f.

L_K is the importance-weighted estimate of K draws. Both get the same weights and data in float32.
Columns of the table:

    asked, made    draws for each example: what the call asks for; rows that went through the
                   decoder over examples
    returned       the number that the call gives, ± its standard error over examples; pythae
                   reports none, so there it comes from the same call on each example alone
    as it is       returned less the exact -log p(x)
    sign           + if returned is nearer to the exact -log p(x) than minus returned, else -: it
                   estimates +log p(x)
    with sign      sign times returned, less the exact -log p(x), ± the standard error of this
                   difference over examples
    expected       where that should lie for as many draws as were asked for, and for as many as
                   were made
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from environment import CONTESTANTS, install
from torch import Tensor
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split
from lowerbound.evaluation.estimate import Estimate
from lowerbound.objective import Step
from lowerbound.supports import REAL
from lowerbound.utils.seeding import seeded

D, Z, N = 10, 4, 1000
INFLATION = 2.0  # s
# [n_samples, batch_size] of get_nll, None for its default. It makes max(1, n_samples // batch_size)
# batches, each of batch_size draws: n_samples draws where batch_size divides it, hence both cases
# are shown
CALLS = [[1, None], [1, 1], [100, None], [250, None], [250, 50], [300, None], [1000, None]]


@dataclass(frozen=True)
class Answer:
    """What a call returned, what it returns for each example, and the draws for each example: asked
    for and made.
    """

    call: str
    asked: int
    made: float
    returned: float
    values: Tensor


def make_problem() -> dict[str, Tensor]:
    """Weights of both networks and data from the model, all in float32."""
    generator = torch.Generator().manual_seed(0)
    orthonormal = torch.linalg.qr(torch.randn(D, Z, generator=generator, dtype=torch.float64)).Q
    lengths = torch.linspace(1, 3, Z, dtype=torch.float64)
    weight, bias = orthonormal * lengths, torch.randn(D, generator=generator, dtype=torch.float64)
    precision = lengths**2 + 1  # of the exact posterior, W'W + I
    matrix = weight.T / precision[:, None]
    z = torch.randn(N, Z, generator=generator, dtype=torch.float64)
    x = z @ weight.T + bias + torch.randn(N, D, generator=generator, dtype=torch.float64)
    exact = {"weight": weight, "bias": bias, "matrix": matrix, "offset": -matrix @ bias, "x": x}
    exact["log_var"] = (INFLATION**2 / precision).log()
    return {name: value.float() for name, value in exact.items()}


def exact_nll(problem: dict[str, Tensor]) -> Tensor:
    """-log p(x) of each example, in float64, of the weights and data as float32 rounds them."""
    weight, bias, x = (problem[name].double() for name in ("weight", "bias", "x"))
    return -MultivariateNormal(
        bias, weight @ weight.T + torch.eye(D, dtype=torch.float64)
    ).log_prob(x)


def gap(samples: int, draws: int = 4_000_000) -> Estimate:
    """log p(x) - E[L_K]; of one draw in closed form, which is that of the ELBO."""
    if samples == 1:
        return Estimate(Z * ((INFLATION**2 - 1) / 2 - math.log(INFLATION)), 0.0, 1)
    chi_squared = torch.from_numpy(
        np.random.default_rng(0).chisquare(Z, (draws // samples, samples))
    )
    log_r = Z * math.log(INFLATION) - (INFLATION**2 - 1) / 2 * chi_squared
    return Estimate.over(math.log(samples) - log_r.logsumexp(1))


def linear(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> lb.networks.MLP:
    return lb.networks.MLP(in_shape, out_shape, hidden=())


def build(problem: dict[str, Tensor]) -> lb.VAE:
    posterior = lb.posteriors.DiagonalNormal((D,), (Z,), network=linear)
    likelihood = lb.likelihoods.Normal((Z,), (D,), scale=1.0, network=linear)
    encoder, decoder = posterior.net.layers[0], likelihood.net.layers[0]
    # mean and log-variance come from one layer; the log-variance does not depend on x
    encoder.weight.data.copy_(torch.cat([problem["matrix"], torch.zeros(Z, D)]))
    encoder.bias.data.copy_(torch.cat([problem["offset"], problem["log_var"]]))
    decoder.weight.data.copy_(problem["weight"])
    decoder.bias.data.copy_(problem["bias"])
    return lb.VAE(lb.priors.StandardNormal((Z,)), posterior, likelihood)


def our_answers(problem: dict[str, Tensor]) -> list[Answer]:
    model, x, rows = build(problem), problem["x"], []
    data = Dataset("ppca", {"test": Split(x)}, REAL)
    model.likelihood.net.register_forward_hook(
        lambda net, inputs, output: rows.append(len(inputs[0]))
    )
    with torch.no_grad(), seeded(0):
        loss = lb.objectives.ELBO().terms(model(x), Step(1.0, N)).loss
    answers = [
        Answer("ELBO().terms(model(x)).loss", 1, sum(rows) / N, float(loss.mean()), loss.double())
    ]
    for samples in sorted({samples for samples, _ in CALLS}):
        rows.clear()
        evaluation = lb.evaluate(model, data, samples=samples, batch_size=N, seed=0)
        made = sum(rows) / N - 1  # one more estimates the mutual information
        nll = evaluation.nll.value
        answers.append(
            Answer(
                f"evaluate(model, data, samples={samples}).nll",
                samples,
                made,
                nll,
                evaluation.values["nll"].double(),
            )
        )
    return answers


def their_answers(problem: dict[str, Tensor]) -> tuple[str, list[Answer]]:
    """pythae's version, as its environment reports it, and its answers."""
    python = install()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "problem.npz"
        np.savez(file, **{name: value.numpy() for name, value in problem.items()})
        script = CONTESTANTS / "pythae_evidence.py"
        # -I: nothing of this environment reaches the other one
        command = [python, "-I", script, file, json.dumps(CALLS)]
        said = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        )
    answers = [
        Answer(**{**given, "values": torch.tensor(given["values"]).double()})
        for given in said["answers"]
    ]
    return f"pythae {said['pythae']}, torch {said['torch']}", answers


def compare(answer: Answer, exact: Tensor) -> tuple[int, Estimate]:
    """The sign that brings what was returned nearer to -log p(x), and how far it then lies from
    it.
    """
    truth = float(exact.mean())
    sign = 1 if abs(answer.returned - truth) <= abs(-answer.returned - truth) else -1
    stderr = Estimate.over(sign * answer.values - exact).stderr
    return sign, Estimate(sign * answer.returned - truth, stderr, len(exact))


def print_rows(title: str, answers: list[Answer], exact: Tensor, gaps: dict[int, Estimate]) -> None:
    print(f"{title:<42}{'draws':>11}{'less the exact -log p(x)':>53}{'expected':>18}")
    columns = f"{'asked':>5}{'made':>6}{'returned':>17}{'as it is':>13}{'sign':>6}{'with sign':>17}"
    print(f"{'':<42}{columns}{'asked':>10}{'made':>8}")
    for answer in answers:
        stderr = Estimate.over(answer.values).stderr
        sign, off = compare(answer, exact)
        returned, raw = (
            f"{answer.returned:.3f} ± {stderr:.3f}",
            answer.returned - float(exact.mean()),
        )
        put_right = f"{off.value:+.3f} ± {off.stderr:.3f}"
        offsets = f"{raw:>+13.3f}{'+' if sign > 0 else '-':>6}{put_right:>17}"
        expected = f"{gaps[answer.asked].value:>+10.3f}{gaps[round(answer.made)].value:>+8.3f}"
        print(
            "  "
            f"{answer.call:<40}{answer.asked:>5}{answer.made:>6g}{returned:>17}{offsets}{expected}"
        )


def is_right(answer: Answer, exact: Tensor, gaps: dict[int, Estimate]) -> bool:
    sign, off = compare(answer, exact)
    expected = gaps[answer.asked]
    close = abs(off.value - expected.value) <= 4 * math.hypot(off.stderr, expected.stderr)
    return close and sign > 0 and answer.made == answer.asked


def main() -> int:
    problem = make_problem()
    exact = exact_nll(problem)
    ours = our_answers(problem)
    version, theirs = their_answers(problem)
    gaps = {k: gap(k) for k in sorted({round(n) for a in ours + theirs for n in (a.asked, a.made)})}

    print(
        f"D = {D}, Z = {Z}, standard deviations of the encoder {INFLATION:g} times the exact "
        "posterior's"
    )
    print(f"{'exact -log p(x)':<24} {Estimate.over(exact)}")
    print(f"{'exact -ELBO':<24} {Estimate.over(exact + gap(1).value)}, {gap(1).value:.4f} above")
    print(f"{'D/2 log(2 pi)':<24} {D / 2 * math.log(2 * math.pi):.4f} nats")
    monte_carlo = max(offset.stderr for offset in gaps.values())
    print(
        f"{'expected offsets':<24} in closed form at one draw, else Monte Carlo ± {monte_carlo:.4f}"
    )
    print()
    print_rows(f"lowerbound, torch {torch.__version__}", ours, exact, gaps)
    print()
    print_rows(version, theirs, exact, gaps)
    return not all(is_right(answer, exact, gaps) for answer in ours)


if __name__ == "__main__":
    sys.exit(main())
