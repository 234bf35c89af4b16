"""Discrete codes from the command line: every command works on them, or says in one line why
not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command

HOW = {
    "enumerated": [
        *(
            "--prior",
            "Categorical",
            "--posterior",
            "Categorical",
            "--posterior.draws",
            "enumerated",
        ),
        *("--latent", "[2,3]"),
    ],
    "softmax": [
        "--prior",
        "Categorical",
        "--prior.learned",
        "true",
        "--posterior",
        "Categorical",
        "--latent",
        "[7,3]",
    ],
    "asleep": [
        *(
            "--prior",
            "Bernoulli",
            "--posterior",
            "Bernoulli",
            "--posterior.draws",
            "sampled",
            "--latent",
            "4",
        ),
        *("--objective", "ReweightedWakeSleep", "--objective.phase", "both"),
    ],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from lowerbound.cli import main

    folder = tmp_path_factory.mktemp("codes")
    for name, options in HOW.items():
        argv = [
            "train",
            "digits",
            "--data.binarize",
            "threshold",
            *options,
            "--out",
            str(folder / name),
        ]
        assert main([*argv, "--epochs", "2", "--quiet", "--no-report"]) == 0
    return folder


@pytest.mark.parametrize(("name", "states"), [("enumerated", 9), ("softmax", None), ("asleep", 16)])
def test_every_command_works_on_codes(
    runs: Path, command: Command, name: str, states: int | None
) -> None:
    run = runs / name
    code, out, err = command("evaluate", run, "--samples", 50, "--curve")
    assert code == 0, err
    written = json.loads((run / "evaluation.json").read_text())
    assert written["samples"] == (states or 50)
    assert (f"exact: the sum over all {states} values of z" in out) == (states is not None)
    assert written["latent_dimensions"] == {"enumerated": 2, "softmax": 7, "asleep": 4}[name]
    trained = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert (trained[0]["train"]["elbo"] is None) == (
        name == "softmax"
    )  # between codes there is no bound
    assert trained[0]["valid"]["elbo"] is not None
    for argv in (
        ["report", run],
        ["traverse", run, "--out", runs / "t.png"],
        ["interpolate", run, "--out", runs / "i.png"],
        ["sample", run, "--out", runs / "s.png"],
        ["reconstruct", run, "--out", runs / "r.npy"],
        ["score", run, "digits", "--split", "test", "--out", runs / "p.npy"],
        ["encode", run, "digits", "--split", "test", "--out", runs / "z.npy"],
    ):
        code, _, err = command(*argv)
        assert code == 0, (argv[0], err)
    assert set(np.unique(np.load(runs / "z.npy"))) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (
            ["manifold", "{run}", "--out", "{folder}/m.png"],
            "these codes are discrete; use traverse",
        ),
        (
            ["evaluate", "{run}", "--estimator", "ais"],
            "is discrete; use the importance-weighted estimator",
        ),
        (["sandwich", "{run}", "-n", "2"], "is discrete; use the importance-weighted estimator"),
        (
            ["gaps", "{run}", "-n", "2", "--steps", "1"],
            "is discrete; use the importance-weighted estimator",
        ),
    ],
)
def test_what_has_no_meaning_for_codes_is_refused(
    runs: Path, command: Command, argv: list[str], words: str
) -> None:
    code, _, err = command(*(part.format(run=runs / "softmax", folder=runs) for part in argv))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--prior", "Categorical"],
            "Categorical gives probabilities of unit vectors, and DiagonalNormal gives none",
        ),
        (
            ["--prior", "Bernoulli", "--posterior", "Bernoulli", "--posterior.draws", "sampled"],
            "ELBO differentiates through",
        ),
        (
            ["--prior", "Bernoulli", "--posterior", "Bernoulli", "--posterior.draws", "enumerated"],
            "has 65,536 states",
        ),
        (
            ["--prior", "Categorical", "--posterior", "Categorical", "--latent", "1"],
            "with C at least 2",
        ),
        (
            ["--objective", "ReweightedWakeSleep", "--prior", "VampPrior"],
            "teaches p and q apart, and VampPrior is made of q",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(
    tmp_path: Path, command: Command, options: list[str], words: str
) -> None:
    code, _, err = command(
        "train", "digits", "--data.binarize", "threshold", *options, "--out", tmp_path / "run"
    )
    assert code == 2
    assert words in err
    assert not (tmp_path / "run").exists()
