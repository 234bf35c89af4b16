"""Damaged files: of every kind that is read, mutated ones give the same numbers or one line.

A run is made of each kind of data. Of each of its files, hundreds are made that differ in a few
bits, are cut off, lack a piece, hold one twice, or nest thousands of brackets, and each is read as
the commands read it. What must not be: another number without a word, any other exception, a
message of several lines, or a reader that never comes back.
"""

from __future__ import annotations

import functools
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.config.build import complete
from lowerbound.runs.opened import own_data
from lowerbound.runs.run import Run

small = functools.partial(lb.networks.MLP, hidden=(2,))


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in rng.integers(0, len(content), rng.integers(1, 4)):
        damaged[place] ^= 1 << rng.integers(8)
    return bytes(damaged)


def cut_off(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def without_a_piece(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = piece(content, rng)
    return content[:start] + content[start + length :]


def with_a_piece_twice(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = piece(content, rng)
    there = rng.integers(len(content))
    return content[:there] + content[start : start + length] + content[there:]


def with_a_piece_of_zeros(content: bytes, rng: np.random.Generator) -> bytes:
    start, length = piece(content, rng)
    return content[:start] + bytes(length) + content[start + length :]


def with_another_digit(content: bytes, rng: np.random.Generator) -> bytes:
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"]
    if not digits:
        return flipped(content, rng)
    place = digits[rng.integers(len(digits))]
    return content[:place] + b"%d" % rng.integers(10) + content[place + 1 :]


def without_a_line(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[rng.integers(len(lines))]
    return b"".join(lines)


def with_a_line_twice(content: bytes, rng: np.random.Generator) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(rng.integers(len(lines) + 1), lines[rng.integers(len(lines))])
    return b"".join(lines)


def nested(content: bytes, rng: np.random.Generator) -> bytes:
    there = rng.integers(len(content) + 1)
    deep = (b"[", b"{", b'{"a":', b"(", b"- ", b"&a [*a,")[rng.integers(6)]
    return content[:there] + deep * int(rng.integers(1, 3000)) + content[there:]


def with_a_wild_number(content: bytes, rng: np.random.Generator) -> bytes:
    there = rng.integers(len(content) + 1)
    number = (b"1e999", b"NaN", b"-Infinity", b"9" * 400, b".inf", b"\x00")[rng.integers(6)]
    return content[:there] + number + content[there:]


MUTATIONS = (
    flipped, flipped, flipped, cut_off, without_a_piece, with_a_piece_twice,
    with_a_piece_of_zeros, with_another_digit, without_a_line, with_a_line_twice, nested,
    with_a_wild_number,
)  # fmt: skip


def piece(content: bytes, rng: np.random.Generator) -> tuple[int, int]:
    """Where a piece begins, and how long it is: mostly short."""
    start = int(rng.integers(len(content)))
    return start, int(min(len(content) - start, rng.geometric(0.05)))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return dict(run.model().state_dict())


def checkpoint(run: Run) -> Any:
    return run.checkpoint()


def everything(run: Run) -> Any:
    """What the configuration decides: the model, what it was trained by, and what it is tested
    on.
    """
    trained_by = complete(run.config())["objective"]
    return weights(run), run.model().x_shape, trained_by, held(run)


def held(run: Run) -> Any:
    data = own_data(run)
    return [(data.examples(split), data[split].y) for split in data.splits]


CSV, NPY, NPZ, PNG = "table.csv", "array.npy", "arrays.npz", "pictures"
KINDS: dict[str, tuple[str, str, Callable[[Run], Any]]] = {
    "config.yaml": (CSV, "config.yaml", everything),
    "model.safetensors": (CSV, "model.safetensors", weights),
    "state.json": (CSV, "checkpoint/state.json", checkpoint),
    "state-N.safetensors": (CSV, "checkpoint/state-2.safetensors", checkpoint),
    "metrics.jsonl": (CSV, "metrics.jsonl", Run.metrics),
    "evaluation.json": (CSV, "evaluation.json", Run.evaluation),
    ".npy": (NPY, f"../{NPY}", held),
    ".npz": (NPZ, f"../{NPZ}", held),
    ".csv": (CSV, f"../{CSV}", held),
    ".png": (PNG, f"../{PNG}/a/1.png", held),
}
"""Of each kind: of which data the run is, which of its files is damaged, and how it is read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each kind of data, and the data."""
    folder, rng = tmp_path_factory.mktemp("fuzz"), np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)).round(3), rng.integers(0, 2, 30)
    np.savetxt(
        folder / CSV, np.c_[x, y], "%.3f,%.3f,%.3f,%d", header="size,weight,age,kind", comments=""
    )
    np.save(folder / NPY, x.astype(np.float32))
    np.savez_compressed(folder / NPZ, x=x, y=y)
    for label in ("a", "b"):
        (folder / PNG / label).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / PNG / label / f"{i}.png")
    for source in (CSV, NPY, NPZ, PNG):
        data = lb.data.load(folder / source, **({"labels": "kind"} if source == CSV else {}))
        shape = data.event_shape
        model = lb.VAE(
            lb.priors.StandardNormal((1,)),
            lb.posteriors.DiagonalNormal(shape, (1,), network=small),
            lb.likelihoods.Normal((1,), shape, network=small),
        )
        out = Run(folder / f"run-{source}")
        lb.fit(model, lb.objectives.ELBO(), data, epochs=2, out=out, progress=False)
        with warnings.catch_warnings(action="ignore"):
            out.write_evaluation(lb.evaluate(model, data, samples=2).as_json())
    return folder


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return bool(one == other)


def fuzz(folder: Path, kind: str, count: int) -> None:
    source, name, read = KINDS[kind]
    run = Run(folder / f"run-{source}")
    file = run.path / name
    whole, rng = file.read_bytes(), np.random.default_rng(zlib.crc32(kind.encode()))
    expected = read(run)
    outcomes = {"the same": 0, "one line": 0}
    try:
        for number in range(count):
            mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
            damaged = mutate(whole, rng)
            file.write_bytes(damaged)
            where = f"{kind}, number {number}, {mutate.__name__}"
            try:
                with warnings.catch_warnings(action="ignore"):
                    outcome = read(run)
            except (ValueError, TypeError, OSError) as error:
                words = str(error)
                assert words, where
                assert "\n" not in words, f"{where}: {words}"
                outcomes["one line"] += 1
            except BaseException as error:
                raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
            else:
                assert same(outcome, expected), f"{where}: other numbers without a word"
                outcomes["the same"] += 1
    finally:
        file.write_bytes(whole)
    assert same(read(run), expected)
    assert outcomes["one line"] > count / 4  # the damage is seen at all
    print(kind, outcomes)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_the_same_numbers_or_one_line(folder: Path, kind: str) -> None:
    fuzz(folder, kind, 200)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_very_many_damaged_files(folder: Path, kind: str) -> None:
    fuzz(folder, kind, 20_000)
