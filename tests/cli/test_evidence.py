"""Evidence from the command line: the same numbers as from Python, written where they belong, and
refusals in one line.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import lowerbound as lb
from tests.cli.conftest import Command

RNG = np.random.default_rng(1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on a file of binary examples: two sizes of one model, and one that scores by
    cross-entropy.
    """
    from lowerbound.cli import main

    folder = tmp_path_factory.mktemp("evidence")
    x = (RNG.random((300, 2)) @ RNG.random((2, 12)) > RNG.random((300, 12))).astype(np.float32)
    np.save(folder / "x.npy", x)
    for name, options in {
        "small": ["--latent", "1"],
        "large": ["--latent", "3"],
        "score": ["--likelihood", "BinaryCrossEntropy"],
    }.items():
        argv = ["train", str(folder / "x.npy"), *options, "--out", str(folder / name)]
        assert main([*argv, "--epochs", "3", "--quiet", "--no-report"]) == 0
    return folder


def test_the_curve_is_printed_and_written(runs: Path, command: Command) -> None:
    code, out, err = command("evaluate", runs / "large", "--samples", 300, "--curve")
    assert code == 0, err
    for text in (
        "nll, K = 1 ",
        "nll, K = 10 ",
        "nll, K = 100 ",
        "nll, K = 300 ",
        "effective_samples",
        "heavy_tails",
        " of 3",
    ):
        assert text in out
    written = json.loads((runs / "large" / "evaluation.json").read_text())
    assert [point["samples"] for point in written["curve"]] == [1, 10, 100, 300]
    assert written["kind"] == "probability"
    assert command("report", runs / "large")[0] == 0
    page = (runs / "large" / "report.html").read_text()
    assert "importance-weighted estimate over the number of samples" in page
    assert "mutual information" in page


def test_annealing_says_what_it_did(runs: Path, command: Command) -> None:
    before = (runs / "small" / "evaluation.json").read_bytes()
    code, out, err = command(
        "evaluate",
        runs / "small",
        "--estimator",
        "ais",
        "--temperatures",
        20,
        "--chains",
        4,
        "--examples",
        10,
        "--json",
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["n"] == found["nll"]["n"] == 10
    assert "4 chains, temperatures: 20" in found["estimator"]
    assert (
        runs / "small" / "evaluation.json"
    ).read_bytes() == before  # of some of the examples, so it is not the run's


def test_runs_are_compared_in_pairs(runs: Path, command: Command) -> None:
    code, out, err = command(
        "compare", runs / "small", runs / "large", runs / "score", "--samples", 20
    )
    assert code == 0, err
    assert f"less {runs / 'small'}, example by example:" in out
    assert "score and that of" in out
    code, out, _ = command("compare", runs / "small", runs / "large", "--samples", 20, "--json")
    found = json.loads(out)
    difference = found["differences"][str(runs / "large")]["nll"]
    means = [found["evaluations"][str(runs / name)]["nll"]["value"] for name in ("large", "small")]
    assert difference["value"] == pytest.approx(means[0] - means[1], rel=1e-4)
    assert difference["n"] == 30


def test_the_sandwich_and_the_gaps(runs: Path, command: Command) -> None:
    code, out, err = command(
        "sandwich", runs / "large", "-n", 20, "--chains", 4, "--temperatures", 30, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["gap"]["value"] == pytest.approx(found["upper"]["value"] - found["lower"]["value"])
    assert found["narrow"]["value"] > 0.8
    code, out, err = command(
        "gaps", runs / "large", "-n", 10, "--steps", 20, "--chains", 4, "--temperatures", 20
    )
    assert code == 0, err
    assert "amortisation_gap" in out
    code, out, err = command(
        "gaps",
        runs / "large",
        runs / "x.npy",
        "-n",
        10,
        "--steps",
        2,
        "--temperatures",
        2,
        "--json",
    )
    assert json.loads(out)["elbo"]["n"] == 10


@pytest.mark.filterwarnings("default:posterior collapse")
def test_a_collapsed_run_is_told_in_its_report(command: Command) -> None:
    np.save("x.npy", (RNG.random((400, 6)) > 0.5).astype(np.float32))  # noise: nothing for z to say
    code, out, err = command(
        "train",
        "x.npy",
        "--objective.beta",
        20,
        "--epochs",
        80,
        "--batch-size",
        64,
        "--latent",
        2,
        "--out",
        "run",
    )
    assert code == 0, err
    assert "note: posterior collapse: in epoch 40 of 80" in err
    assert "warning  posterior collapse" in out
    page = Path("run/report.html").read_text()
    assert '<p class="warning">Posterior collapse' in page


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("evaluate", "large", "--samples", 0), "samples is 0"),
        (("evaluate", "large", "--estimator", "asi"), "did you mean 'ais'"),
        (("evaluate", "large", "--estimator", "ais", "--curve"), "leave it out"),
        (("evaluate", "large", "--precision", "bf16"), "bf16-mixed"),
        (("evaluate", "large", "--estimator", "ais", "--temperatures", 0), "temperatures is 0"),
        (("evaluate", "large", "--examples", 0), "examples is 0"),
        (("evaluate", "large", "--temperatures", 50), "belongs to --estimator ais"),
        (("evaluate", "large", "--samples", 10**13), "take fewer samples"),
        (("evaluate", "score", "--curve"), "leave it out"),
        (("evaluate", "score", "--estimator", "ais"), "no log-density"),
        (("evaluate", "large", "wrong.npy"), "shape"),
        (("compare", "large"), "at least two runs"),
        (("compare", "large", "large"), "named twice"),
        (("sandwich", "large", "-n", 0), "n is 0"),
        (("sandwich", "large", "--chains", 0), "chains is 0"),
        (("sandwich", "score"), "no log-density"),
        (("gaps", "large", "-n", 0), "n is 0"),
        (("gaps", "large", "--steps", 0), "steps is 0"),
        (("gaps", "score"), "no log-density"),
    ],
)
def test_bad_input_is_one_line(
    argv: tuple[object, ...],
    message: str,
    runs: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(runs)
    np.save("wrong.npy", np.zeros((40, 7), dtype=np.float32))
    code, _, err = command(*argv)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert message in err


def test_scores_are_those_of_python(runs: Path, command: Command) -> None:
    assert (
        command("score", runs / "large", runs / "x.npy", "--samples", 30, "--out", "s.npy")[0] == 0
    )
    x = lb.data.load(runs / "x.npy", splits="all").examples("all")
    again = lb.evaluation.log_marginal(lb.load(runs / "large"), x, samples=30, seed=0)
    assert np.array_equal(np.load("s.npy"), again.numpy())


@pytest.mark.parametrize(
    "content",
    ["[]", "{", "{}", '{"rate": 3, "nll": null, "estimator": "x"}', '{"curve": [1]}', "null"],
)
def test_a_damaged_evaluation_is_named(content: str, runs: Path, command: Command) -> None:
    file = runs / "small" / "evaluation.json"
    before = file.read_bytes()
    file.write_text(content)
    try:
        code, _, err = command("report", runs / "small")
    finally:
        file.write_bytes(before)
    assert code == 2
    assert f"{file} is damaged: " in err
    assert "; write it anew: lowerbound evaluate" in err


def test_an_evaluation_of_an_earlier_version_is_shown(runs: Path, command: Command) -> None:
    file, config = runs / "small" / "evaluation.json", runs / "small" / "config.yaml"
    before, described = json.loads(file.read_text()), config.read_text("utf-8")
    old = (
        "split",
        "samples",
        "n",
        "estimator",
        "elbo",
        "nll",
        "bits_per_dim",
        "rate",
        "distortion",
        "cross_entropy",
        "objective",
    )
    file.write_text(json.dumps({key: before[key] for key in old} | {"active_units": 1}))
    assert described.startswith("format: 2\n")
    config.write_text(described.replace("format: 2", "format: 1", 1), "utf-8")  # without digests
    code, _, err = command("report", runs / "small")
    config.write_text(described, "utf-8")
    file.write_text(json.dumps(before))
    assert code == 0, err
