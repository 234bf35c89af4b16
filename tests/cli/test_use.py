"""What a trained model is for: ``evaluate``, ``sample``, ``reconstruct``, ``encode``, ``score``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lowerbound.runs.digests import verified
from tests.cli.conftest import Command

RNG = np.random.default_rng(0)


def test_what_a_trained_model_is_for(trained: Path, command: Command) -> None:
    code, out, _ = command("evaluate", trained, "--split", "valid", "--samples", 7, "--json")
    content = json.loads(out)
    assert (code, content["split"], content["samples"]) == (0, "valid", 7)
    assert content == verified(json.loads((trained / "evaluation-valid.json").read_text()))
    assert json.loads((trained / "evaluation.json").read_text())["split"] == "test"
    code, out, _ = command("evaluate", trained, "--samples", 5)
    assert "nats (n = 180)" in out
    for argv in (
        ("sample", trained, "-n", 12, "--out", "s.png"),
        ("sample", trained, "-n", 12, "--mean", "--out", "m.png"),
        ("reconstruct", trained, "--out", "r.png"),
        ("reconstruct", trained, "digits", "-n", 3, "--out", "r.npy"),
        ("encode", trained, "digits", "--split", "train", "--out", "z.npy"),
    ):
        assert command(*argv)[0] == 0
    assert np.load("r.npy").shape == (3, 1, 8, 8)
    assert np.load("z.npy").shape == (1437, 4)
    for name in ("s.png", "m.png", "r.png"):
        with Image.open(name) as image:
            assert image.size[0] > 100


def test_encode_keeps_the_order_and_scale_of_a_file(trained: Path, command: Command) -> None:
    from sklearn.datasets import load_digits

    np.save("some.npy", load_digits().images[5:9].astype(np.uint8)[:, None])
    np.save("one.npy", load_digits().images[7:8].astype(np.uint8)[:, None])
    assert command("encode", trained, "some.npy", "--out", "some-z.npy")[0] == 0
    assert command("encode", trained, "one.npy", "--out", "one-z.npy")[0] == 0
    assert np.allclose(np.load("some-z.npy")[2], np.load("one-z.npy")[0], atol=1e-5)
    command("encode", trained, "digits", "--split", "all", "--out", "all-z.npy")
    assert np.allclose(np.load("some-z.npy"), np.load("all-z.npy")[5:9], atol=1e-5)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("evaluate", "--samples", "0"), "samples is 0"),
        (("evaluate", "--split", "tset"), "did you mean 'test'"),
        (("sample", "-n", "0", "--out", "a.npy"), "n is 0"),
        (("sample", "-n", "3"), "say which file to write"),
        (("sample", "-n", "3", "--out", "a.jpg"), "must end in .npy, .csv or .png"),
        (("sample", "-n", "3", "--out", "no/folder/a.npy"), "there is no folder no/folder"),
        (("encode", "digits", "--out", "a.png"), "must end in .npy"),
        (
            ("encode", "wrong.npy", "--out", "a.npy"),
            "examples of shape (9,), and the model was built for (1, 8, 8)",
        ),
        (("encode", "real.npy", "--out", "a.npy"), "values that are not among the 17 levels"),
        (("encode", "nan.npy", "--out", "a.npy"), "1 of 64 values that are NaN"),
        (("score", "digits", "--samples", "0", "--out", "a.npy"), "samples is 0"),
    ],
)
def test_bad_input_to_a_trained_model(
    argv: tuple[str, ...], message: str, trained: Path, command: Command
) -> None:
    np.save("wrong.npy", np.zeros((3, 9)))
    np.save("real.npy", RNG.normal(size=(3, 1, 8, 8)))
    np.save(
        "nan.npy",
        np.full((1, 1, 8, 8), 0.5) + np.where(np.arange(64) == 3, np.nan, 0).reshape(1, 1, 8, 8),
    )
    code, _, err = command(argv[0], trained, *argv[1:])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not {"a.npy", "a.png", "a.jpg"} & set(os.listdir())
