"""The benchmarks measure what they say: paired intervals, the same loss for all, operations
counted, memory seen.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import lowerbound as lb
from lowerbound.config.recipes import recipe_text
from lowerbound.config.settings import read_yaml, settings_of
from lowerbound.utils.seeding import seeded

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "contestants"))
import published
from exponents import exponent
from handwritten import loss_of
from interleaved import Worker, interleave, paired, table
from lowerbound_fit import build
from marginal import operations
from plain import networks, parameters
from problem import NOISE_SEED, PIXELS, PROBLEMS, Given, load
from step import TOLERANCE, Measured, claims, disagreements, exact, prepare
from time_to_objective import FAST

ROOT = Path(__file__).parents[1]
CONTESTANTS = ROOT / "benchmarks" / "contestants"


@pytest.fixture(params=PROBLEMS)
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Given, dict[str, float]]:
    """A problem on noise for pictures, and what is known of it."""
    pictures = torch.randint(
        256, (200, PIXELS), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    known = prepare(request.param, pictures, tmp_path / "problem.npz")
    return load(str(tmp_path / "problem.npz")), known


def test_the_interval_of_a_paired_ratio_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits, repeats = 0, 2000
    for _ in range(repeats):
        drift = np.exp(rng.normal(size=10).cumsum())  # of both: the speed of the machine
        ours, theirs = (level * drift * np.exp(rng.normal(0, 0.1, 10)) for level in (3.0, 2.0))
        ratio = paired(list(ours), list(theirs))
        hits += ratio.low <= 1.5 <= ratio.high
    assert abs(hits / repeats - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_of_one_round_there_is_no_interval() -> None:
    assert (paired([3.0], [2.0]).low, paired([3.0], [2.0]).high) == (0.0, math.inf)


def test_every_round_has_every_contestant_once_and_warming_up_does_not_count() -> None:
    seen: list[str] = []
    turns = {name: lambda name=name: seen.append(name) or len(seen) for name in "abc"}
    found = interleave(turns, rounds=5, warm_up=2)
    assert all(sorted(seen[i : i + 3]) == ["a", "b", "c"] for i in range(0, 21, 3))
    assert len({tuple(seen[i : i + 3]) for i in range(0, 21, 3)}) > 1  # the order changes
    assert sorted(turn for turns in found.values() for turn in turns) == list(range(7, 22))


PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[1])
from channel import serve
print("noise of a library")
def one_round():
    time.sleep(0.05)
    if len(sys.argv) > 2: raise ValueError("no such luck")
serve(one_round, {"check": lambda: {"loss": 1.5}})
"""


def test_a_contestant_answers_over_the_pipe_and_times_its_rounds() -> None:
    worker = Worker("one", [sys.executable, "-c", PROGRAM, CONTESTANTS], threads=1)
    try:
        assert worker.ask("check") == {"loss": 1.5}
        assert all(worker.ask("round")["seconds"] >= 0.05 for _ in range(2))
        assert worker.ask("check") == {"loss": 1.5}
    finally:
        worker.close()
    assert worker.process.returncode == 0


STEPS = """
import sys
sys.path.insert(0, sys.argv[1])
from channel import Channel
taken, settled = 0, 0
def settle():
    global settled
    settled += 1
channel = Channel({"check": lambda: {"taken": taken, "settled": settled}}, settle)
while True:
    channel.step()
    taken += 1
"""


def test_a_round_of_training_is_so_many_steps_wherever_an_epoch_ends() -> None:
    worker = Worker("one", [sys.executable, "-c", STEPS, CONTESTANTS], threads=1)
    try:
        assert worker.ask("check") == {"taken": 0, "settled": 0}  # no step before it is asked for
        worker.ask("round 3")
        assert worker.ask("check") == {"taken": 3, "settled": 1}
        worker.ask("round 5")
        assert worker.ask("check") == {"taken": 8, "settled": 2}
    finally:
        worker.close()


def test_a_contestant_that_dies_is_reported_with_its_last_words() -> None:
    worker = Worker("one", [sys.executable, "-c", PROGRAM, CONTESTANTS, "fail"], threads=1)
    with pytest.raises(RuntimeError, match=r"one died at 'round'[^$]*no such luck"):
        worker.ask("round")
    worker.close()


def test_what_is_written_by_hand_has_the_loss_of_torch_distributions(
    given: tuple[Given, dict[str, float]],
) -> None:
    problem, known = given
    pair = networks(problem.problem)
    set_to(problem, *pair)
    with torch.no_grad():
        loss = loss_of(*pair, torch.from_numpy(problem.x), torch.from_numpy(problem.eps))
    assert float(loss) == pytest.approx(known["loss"], rel=TOLERANCE["float32"])


def test_lowerbound_is_given_the_same_model(
    given: tuple[Given, dict[str, float]],
) -> None:
    problem, known = given
    samples, shape = problem.problem.samples, (1, 28, 28)
    model = build(problem, shape)
    objective = lb.objectives.IWAE(samples) if samples > 1 else lb.objectives.ELBO()
    with torch.no_grad(), seeded(NOISE_SEED):
        draw = model(torch.from_numpy(problem.x).view(-1, *shape), samples=samples)
    assert float(objective(draw, lb.objective.Step(1.0, 200)).total) == pytest.approx(
        known["loss"], rel=1e-5
    )
    assert sum(p.numel() for p in model.parameters()) == known["parameters"]


def test_pythaes_surrogate_has_the_gradient_of_the_bound(tmp_path: Path) -> None:
    """So that a contestant that reports another value than the bound still trains on the same
    objective.
    """
    torch.manual_seed(0)
    problem = PROBLEMS["b50"]
    pair = [net.double() for net in networks(problem)]
    x, eps = torch.rand(3, PIXELS).double().round(), torch.randn(5, 3, problem.latent).double()
    bound = torch.autograd.grad(exact(*pair, x, eps)[0], parameters(*pair))

    encoder, decoder = pair
    mu, log_var = encoder(x).chunk(2, 1)
    z = mu + (0.5 * log_var).exp() * eps
    logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    log_px = (logits * x - torch.nn.functional.softplus(logits)).sum(-1)
    log_w = (
        log_px
        - 0.5 * z.square().sum(-1)
        + 0.5 * (log_var + (z - mu).square() / log_var.exp()).sum(-1)
    )
    surrogate = torch.autograd.grad(
        -(log_w.softmax(0).detach() * log_w).sum(0).mean(), parameters(*pair)
    )
    for ours, theirs in zip(bound, surrogate, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_contestant_that_trains_something_else_is_found_out() -> None:
    known = {"parameters": 10, "batch": 4, "loss": 500.0, "surrogate": 499.0, "mean": 0.13}
    right = {**known, "is_binary": False, "mean": 0.14}
    problem = PROBLEMS["a"]
    assert disagreements(right, known, problem, "float32") == []
    assert disagreements({**right, "loss": 499.0}, known, problem, "float32") == []
    wrongs = [
        ("parameters", 11),
        ("batch", 5),
        ("loss", 500.1),
        ("loss", math.nan),
        ("is_binary", True),
        ("mean", 0.3),
    ]
    for name, wrong in wrongs:
        assert len(disagreements({**right, name: wrong}, known, problem, "float32")) == 1, name


def test_the_operations_of_a_step_are_those_of_its_matrix_products() -> None:
    """A layer costs 2 B (in x out) forward and as much for each of its two gradients; the pixels
    need none.
    """
    problem = PROBLEMS["a"]
    widths = [(784, 512), (512, 4), (2, 512), (512, 784)]
    layers = [2 * problem.batch * a * b for a, b in widths]
    pair = networks(problem)
    x, eps = torch.rand(problem.batch, PIXELS), torch.randn(1, problem.batch, problem.latent)
    with FlopCounterMode(display=False) as counter:
        loss_of(*pair, x, eps).backward()
    assert counter.get_total_flops() == 3 * sum(layers) - layers[0]


def test_the_operations_of_an_evaluation_are_those_of_the_decoder() -> None:
    problem = PROBLEMS["b1"]
    decoder = networks(problem)[1]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        decoder(torch.zeros(7, problem.latent))
    assert operations(problem, 7) == counter.get_total_flops()
    assert operations(problem, 1) == sum(2 * a * b for a, b in pairwise((50, 200, 200, 784)))


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the kernel tells no peak elsewhere"
)
def test_memory_that_is_given_back_before_the_end_is_seen() -> None:
    # in a process of its own: the memory that earlier tests have freed is the allocator's, and
    # taking it again is no growth
    program = """
import json
import numpy as np
from memory import measured

def call():
    return float(np.ones(2**24)[-1])  # 128 MiB, gone when the call returns

print(json.dumps([measured(call), measured(lambda: 0.0)]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CONTESTANTS, capture_output=True, text=True, check=True
    )
    large, none = json.loads(done.stdout)
    assert large["value"] == 1.0
    assert 120 * 2**20 < large["bytes"] < 200 * 2**20
    assert none["bytes"] < 16 * 2**20


def test_the_exponent_is_the_slope_of_the_logarithms_within_its_interval() -> None:
    rng, sizes = np.random.default_rng(0), (1, 2, 4, 8)
    seconds = [[3 * size**0.8 * math.exp(rng.normal(0, 0.02)) for _ in range(10)] for size in sizes]
    p, half = exponent(sizes, seconds)
    assert abs(p - 0.8) < 2 * half < 0.06


def test_a_claim_says_whether_it_holds() -> None:
    times = {
        "eager": [1.0, 1.0],
        "lowerbound": [1.04, 1.04],
        "tutorial": [4.0, 4.0],
        "pythae": [2.0, 2.0],
    }
    times["jax"] = [0.5, 2.0]  # a ratio of which two such rounds tell nothing
    times["jax, bfloat16"] = [
        9.0,
        10.0,
    ]  # and one that lies to one side of the bound, wide as it is
    times["lowerbound, bf16-mixed"] = [1.0, 1.0]
    told = {line[0]: line[-1] for line in claims("a", Measured(times, {}))}
    assert told == {
        "lowerbound / eager": "holds",
        "lowerbound / jax": "too noisy to tell",
        "lowerbound, bf16-mixed / jax, bfloat16": "holds",
        "tutorial / lowerbound, bf16-mixed": "holds",
        "pythae / lowerbound, bf16-mixed": "does not hold",
    }
    told = {line[0]: line[-1] for line in claims("c", Measured(times, {}))}
    assert told["lowerbound / eager"] == "holds"
    assert (
        told["tutorial / lowerbound, bf16-mixed"] == told["pythae / lowerbound, bf16-mixed"] == ""
    )


def test_a_table_has_its_columns_below_each_other() -> None:
    assert table(["", "ms"], [["a", "1.5"], ["bcd", "10.0"]]) == "       ms\na     1.5\nbcd  10.0"


def set_to(given: Given, *modules: torch.nn.Module) -> None:
    for own, value in zip(parameters(*modules), given.weights, strict=True):
        own.data = torch.from_numpy(value)


def test_the_settings_that_are_timed_are_those_of_the_recipe() -> None:
    recipe = read_yaml(recipe_text("notebook-mlp-fast"), "the recipe")
    of_fit = {setting.name for setting in settings_of(lb.fit)}
    assert {
        key: value
        for key, value in recipe.items()
        if key in of_fit - {"data", "objective", "model"}
    } == FAST


def test_the_table_of_published_recipes_in_the_documentation_is_that_of_the_records() -> None:
    assert published.table(published.RECORDS) in (ROOT / "docs" / "results.md").read_text()


def test_every_record_names_a_method_its_seed_and_how_it_was_found() -> None:
    records = sorted(published.RECORDS.glob("*.json"))
    assert records
    for path in records:
        own = json.loads(path.read_text())
        assert path == published.record(own["method"], own["seed"])
        assert own["method"] in published.METHODS
        assert (own["samples"], own["n"], own["nll"]["unit"]) == (published.DRAWS, 10_000, "nats")
        assert {
            "command",
            "commit",
            "date",
            "machine",
            "threads",
            "torch",
            "minutes",
            "busy",
        } <= set(own)


def test_an_order_of_methods_is_claimed_beyond_two_standard_errors_only(tmp_path: Path) -> None:
    nll = {
        "vamp": (82.0, 82.2, 82.1),
        "vamp-standard-normal": (84.0, 84.2, 84.1),
        "iaf": (82.0, 82.4, 82.0),
    }
    for name, values in nll.items():
        for seed, value in enumerate(values):
            own = {"nll": {"value": value, "stderr": 0.2}, "minutes": 20.0, "busy": None}
            (tmp_path / f"{name}-{seed}.json").write_text(json.dumps(own))
    told = published.table(tmp_path)
    assert "vamp less vamp-standard-normal: -2.00 ± 0.08, vamp is better" in told
    assert "vamp-standard-normal less iaf: +1.97" in told
    assert "vamp less iaf: -0.03 ± 0.15, no order" in told


def test_a_run_that_has_been_evaluated_leaves_a_record_and_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the bundled digits, at two draws."""
    options = (
        "digits",
        "--data.binarize",
        "threshold",
        "--likelihood",
        "Bernoulli",
        "--epochs",
        "1",
    )
    monkeypatch.setattr(published, "METHODS", {"small": published.Method(options, 30.0, "nobody")})
    monkeypatch.setattr(published, "RECORDS", tmp_path)
    monkeypatch.setattr(published, "DRAWS", 2)
    published.run("small", 3, tmp_path / "small" / "3")
    own = json.loads((tmp_path / "small-3.json").read_text())
    assert (own["samples"], own["n"], own["epochs"], own["seed"]) == (2, 180, 1, 3)
    assert own["command"].endswith("--seed 3")
    assert own["busy"] > 0
    monkeypatch.setattr(published, "main", lambda *_: pytest.fail("it was done again"))
    published.run("small", 3, tmp_path / "small" / "3")
    assert "small" in published.table(tmp_path)
