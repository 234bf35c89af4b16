"""Values that stay in their file: the same examples, card and numbers as in memory, and an order
that can be resumed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import dataset, mapped
from lowerbound.data.dataset import Dataset
from lowerbound.data.mapped import MappedRows, windowed
from lowerbound.training import passes
from lowerbound.utils import memory
from tests.conftest import make_model

RNG = np.random.default_rng(0)
N = 103


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a hundred examples take several chunks, blocks and windows."""
    monkeypatch.setattr(mapped, "CHUNK", 200)
    monkeypatch.setattr(mapped, "BLOCK", 60)
    monkeypatch.setattr(mapped, "WINDOW", 480)


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def both(path: Path, **options: Any) -> tuple[Dataset, Dataset]:
    return lb.data.load(path, memory="map", **options), lb.data.load(path, memory="load", **options)


def in_file(data: Dataset, split: str = "train") -> MappedRows:
    values = data[split].values
    assert isinstance(values, MappedRows)
    return values


PICTURES = RNG.integers(0, 256, (N, 4, 5), dtype=np.uint8)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("array", "options"),
    [
        (PICTURES, {}),
        (PICTURES, {"binarize": "dynamic"}),
        (PICTURES, {"binarize": "threshold", "splits": "train_test"}),
        (PICTURES, {"binarize": "dynamic", "dequantize": True, "flip": True, "shift": 1}),
        (PICTURES, {"levels": "none"}),
        (PICTURES // 128, {"splits": "all"}),
        (PICTURES.astype(">i4"), {"levels": 256}),
        (PICTURES.astype(float), {}),
        (RNG.normal(size=(N, 3)).astype(np.float32), {}),
        (RNG.random((N, 3)).astype(">f8") * [1.0, 1.0, 900.0], {}),
        (np.stack([np.arange(N) % 2, np.arange(N), np.arange(N) / N], 1), {}),
        (RNG.normal(size=N).astype(np.float16), {}),
        (np.concatenate([np.full((N - 1, 2), 0.5), [[1.0, -1.0]]]), {}),
    ],
)
def test_the_card_is_that_of_the_same_values_in_memory(
    tmp_path: Path, array: np.ndarray, options: dict[str, Any]
) -> None:
    a, b = both(saved(tmp_path, array), **options)
    assert a.is_mapped
    assert not b.is_mapped
    for name in (
        "sha256",
        "support",
        "lies_on",
        "event_shape",
        "range",
        "seed",
        "transforms",
        "name",
    ):
        assert getattr(a, name) == getattr(b, name), name
    assert a.options == {**b.options, "memory": "map"}
    assert str(a) == str(b)
    for split in b.splits:
        assert torch.equal(a.examples(split), b.examples(split))
        assert torch.equal(a.examples(split, 7), b.examples(split)[:7])
        assert torch.equal(torch.cat(list(a.batches(split, 9))), b.examples(split))
        assert torch.equal(torch.cat(list(b.batches(split, 9))), b.examples(split))


def test_two_random_transforms_draw_the_same_however_the_examples_are_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They draw what one generator gives them that first goes through all examples by the one, then
    by the other.
    """
    data = lb.data.from_arrays(PICTURES, binarize="dynamic", dequantize=True)
    generator = torch.Generator().manual_seed(1 + sorted(data.splits).index("train"))
    expected = data["train"].values[:]
    for transform in data.transforms:
        expected = transform(expected, generator)
    assert torch.equal(data.examples("train"), expected)
    monkeypatch.setattr(dataset, "PIECE", 4 * 20 * 7)
    assert torch.equal(torch.cat(list(data.batches("train"))), expected)


@pytest.mark.usefixtures("small")
def test_every_example_comes_once_an_epoch_and_the_order_follows_from_seed_and_epoch(
    tmp_path: Path,
) -> None:
    data = lb.data.load(
        saved(tmp_path, np.arange(N, dtype=np.float32)[:, None].repeat(3, 1)), memory="map"
    )
    orders = [data.order("train", seed, epoch) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(len(data["train"])))
        shown = torch.cat([data.present("train", index) for index in order.split(8)])
        assert torch.equal(shown[:, 0].sort().values, data.examples("train")[:, 0].sort().values)
    assert torch.equal(orders[0], data.order("train", 0, 1))
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_a_window_holds_whole_blocks_from_all_over_the_file() -> None:
    n, block, window = 100_000, 100, 10_000
    order = windowed(n, (3, 1), block, window).numpy()
    for start in range(0, n, window):
        own = order[start : start + window]
        assert len(np.unique(own // block)) == window // block
        # the mean of 100 blocks drawn without replacement from 1,000 numbered 0..999: sd 999 /
        # sqrt(12) / 10 * sqrt(0.9)
        assert abs((own // block).mean() - 499.5) < 5 * 27.4
    assert np.abs(np.diff(order)).mean() > n / 10  # within a window neighbours are not together


def test_where_the_window_holds_all_the_order_is_that_of_data_in_memory(tmp_path: Path) -> None:
    a, b = both(saved(tmp_path, PICTURES))
    assert torch.equal(a.order("train", 5, 2), b.order("train", 5, 2))
    assert torch.equal(
        b.order("train", 5, 2), torch.from_numpy(np.random.default_rng((5, 2)).permutation(83))
    )


@pytest.mark.usefixtures("small")
def test_what_is_read_ahead_is_the_next_window_and_each_but_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 104  # of which 84 train: 28 blocks, so that none lies in two windows
    data = lb.data.load(
        saved(tmp_path, np.arange(n * 5, dtype=np.float32).reshape(n, 5)), memory="map"
    )
    values, order = in_file(data), data.order("train", 0, 1)
    asked: list[tuple[int, int, int]] = []
    let_go: list[int] = []
    monkeypatch.setattr(
        values.array, "will_need", lambda start, stop: asked.append((done, start, stop))
    )
    monkeypatch.setattr(
        values.array, "release", lambda start, stop: let_go.extend(range(start, stop))
    )
    for done in range(0, len(order), 8):
        data.read_ahead("train", order, done, len(order[done : done + 8]))
        rows = values.index[order[done : done + 8].numpy()]
        assert all(any(start <= row < stop for _, start, stop in asked) for row in rows)
        assert not set(rows) & set(let_go)
    spans = [(start, stop) for _, start, stop in asked]
    assert len(spans) == len(set(spans)) == -(-len(order) // values.block)
    assert {when for when, _, _ in asked} == {
        0,
        24,
        48,
    }  # windows of 24, each asked for when the one before begins


@pytest.mark.parametrize(
    "array", [PICTURES, RNG.normal(size=(N, 4, 5)).astype(np.float32) * 30 + 200]
)
def test_training_in_one_window_is_that_in_memory_bit_for_bit(
    tmp_path: Path, array: np.ndarray
) -> None:
    states = []
    for data in both(saved(tmp_path, array)):
        torch.manual_seed(0)
        model = make_model(data, likelihood="Normal")
        history = lb.fit(model, lb.objectives.ELBO(), data, epochs=2, batch_size=16, progress=False)
        result = lb.evaluate(model, data, samples=3)
        states.append(
            (model.state_dict(), history.series("loss", "valid"), result.nll.value, result.sha256)
        )
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name
    assert states[0][1:] == states[1][1:]


@pytest.mark.usefixtures("small")
def test_interrupted_in_a_window_and_resumed_it_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = lb.data.load(saved(tmp_path, PICTURES), memory="map", binarize="dynamic")
    how: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 16,
        "progress": False,
        "checkpoint_seconds": 0,
    }

    def made() -> lb.VAE:
        torch.manual_seed(0)
        return make_model(data)

    whole = made()
    lb.fit(whole, lb.objectives.ELBO(), data, **how)
    present, shown = Dataset.present, 0

    def broken(self: Dataset, split: str, index: torch.Tensor) -> torch.Tensor:
        nonlocal shown
        shown += 1
        if shown == 10:
            raise KeyboardInterrupt
        return present(self, split, index)

    monkeypatch.setattr(Dataset, "present", broken)
    with pytest.raises(KeyboardInterrupt):
        lb.fit(made(), lb.objectives.ELBO(), data, **how, out=tmp_path / "run")
    again = made()
    lb.fit(again, lb.objectives.ELBO(), data, **how, out=tmp_path / "run", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


@pytest.mark.usefixtures("small")
def test_units_come_from_all_examples_and_starting_points_from_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "EXCERPT", 400)
    monkeypatch.setattr(dataset, "LEAST", 10)
    monkeypatch.setattr(dataset, "PIECE", 240)
    array = 1e4 + RNG.normal(size=(N, 4, 5)) * RNG.uniform(0.1, 10, (4, 5))
    array[:, 0, 0] = 3.0
    data, loaded = both(saved(tmp_path, array))
    x, are_all = data.excerpt("train")
    assert not are_all
    assert torch.equal(x, data.excerpt("train")[0])
    known = loaded.examples("train")
    rows = [(row == known).flatten(1).all(1).nonzero().item() for row in x]
    assert len(set(rows)) == 10
    models = [make_model(own, likelihood="Normal") for own in (data, loaded)]
    for model, own in zip(models, (data, loaded), strict=True):
        passes.prepare(model, own)
    standardizer = [model.posterior.standardizer for model in models]
    assert torch.allclose(standardizer[0].loc, standardizer[1].loc, rtol=1e-6)
    assert torch.allclose(standardizer[0].scale, standardizer[1].scale, rtol=1e-6)
    assert standardizer[0].scale[0, 0] == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((60, 1), np.nan, r"1 of 206 values that are NaN or infinite.*\(60, 1\).*missing"),
        ((60, 1), np.inf, r"\(60, 1\)"),
    ],
)
def test_what_is_refused_is_found_wherever_it_stands(
    tmp_path: Path, place: tuple[int, int], value: float, message: str
) -> None:
    array = RNG.normal(size=(N, 2))
    array[place] = value
    with pytest.raises(ValueError, match=message):
        lb.data.load(saved(tmp_path, array), memory="map")


def test_what_cannot_be_mapped_is_refused_in_one_line_and_loaded_where_nobody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lowerbound.data.mapped.physical_memory", lambda: 1000)
    fortran = saved(tmp_path, np.asfortranarray(RNG.normal(size=(N, 2))))
    with pytest.raises(
        ValueError, match=r"cannot be mapped: it is in Fortran order.*--data.memory load"
    ):
        lb.data.load(fortran, memory="map")
    assert not lb.data.load(fortran).is_mapped
    with pytest.raises(ValueError, match="cannot be mapped: where values are missing"):
        lb.data.load(saved(tmp_path, RNG.normal(size=(N, 2))), memory="map", missing="marginalise")
    np.savez(tmp_path / "a.npz", x=PICTURES)
    with pytest.raises(ValueError, match="memory .* is for a .npy file"):
        lb.data.load(tmp_path / "a.npz", memory="map")
    with pytest.raises(ValueError, match="strip is taken of all pictures"):
        lb.data.load(saved(tmp_path, PICTURES), memory="map", strip=[0, 1])
    assert not lb.data.load(tmp_path / "x.npy", strip=[0, 1]).is_mapped
    with pytest.raises(ValueError, match="did you mean 'map'"):
        lb.data.load(tmp_path / "x.npy", memory="mapp")


def test_what_is_large_for_the_memory_is_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, PICTURES)
    for there, is_mapped in ((4 * PICTURES.nbytes, False), (4 * PICTURES.nbytes - 4, True)):
        monkeypatch.setattr("lowerbound.data.mapped.physical_memory", lambda there=there: there)
        assert lb.data.load(path).is_mapped == is_mapped


def test_the_limit_of_a_control_group_counts(tmp_path: Path) -> None:
    new, old = tmp_path / "cgroup", tmp_path / "memory" / "batch" / "job"
    old.mkdir(parents=True)
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("3000\n")
    (old / "memory.limit_in_bytes").write_text("2000\n")
    (old.parent / "memory.limit_in_bytes").write_text("1000\n")
    new.write_text("5:memory:/batch/job\n3:cpu:/elsewhere\n0::/box\n")
    assert sorted(set(memory.group_limits(new, tmp_path))) == [1000, 2000, 3000]
    assert memory.group_limits(tmp_path / "nowhere", tmp_path) == []
