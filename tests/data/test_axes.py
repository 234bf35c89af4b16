"""Axes: what acts on pictures acts on height and width, or is refused with the axis named."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.networks import MLP, Conv

RNG = np.random.default_rng(0)
LAST = RNG.integers(0, 256, (40, 16, 12, 3), dtype=np.uint8)


def model_for(data: Dataset, network: object = partial(Conv, width=4)) -> lb.VAE:
    return lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal(data.event_shape, (2,), network=network),
        lb.likelihoods.Normal((2,), data.event_shape, network=network),
    )


def test_channels_that_are_last_are_refused_under_a_convolution_and_moved_when_asked() -> None:
    data = lb.data.from_arrays(LAST)
    with pytest.raises(
        ValueError, match=r"shape \(16, 12, 3\).*along the axes 12 and 3.*--data.channels last"
    ):
        lb.evaluate(model_for(data), data, samples=1)
    lb.evaluate(model_for(data, MLP), data, samples=1)  # which has no axes
    moved = lb.data.from_arrays(LAST, channels="last", splits="all")
    assert moved.event_shape == (3, 16, 12)
    assert torch.equal(moved["all"].values, torch.from_numpy(LAST).permute(0, 3, 1, 2))
    moved = lb.data.from_arrays(LAST, channels="last")
    lb.evaluate(model_for(moved), moved, samples=1)
    as_it_is = lb.data.from_arrays(LAST, channels="first")
    assert as_it_is.event_shape == (16, 12, 3)
    lb.evaluate(model_for(as_it_is), as_it_is, samples=1)


@pytest.mark.parametrize("memory", ["map", "load"])
def test_a_file_is_moved_as_the_array_is(tmp_path: Path, memory: str) -> None:
    np.save(tmp_path / "x.npy", LAST)
    if memory == "map":
        with pytest.raises(ValueError, match="channels is taken of all pictures"):
            lb.data.load(tmp_path / "x.npy", channels="last", memory="map")
        return
    data = lb.data.load(tmp_path / "x.npy", channels="last", memory=memory)
    assert data.event_shape == (3, 16, 12)
    assert lb.data.load(data.name, **data.options).sha256 == data.sha256
    with pytest.raises(ValueError, match="channels .* is for a .npy file or a .npz file"):
        lb.data.load("digits", channels="last")


def test_what_is_missing_moves_too() -> None:
    x = RNG.normal(size=(30, 8, 8, 2))
    x[0, 3, 4, 1] = np.nan
    data = lb.data.from_arrays(x, channels="last", missing="marginalise", splits="all")
    assert (~data["all"].mask).nonzero().tolist() == [[0, 1, 3, 4]]
    with pytest.raises(ValueError, match="no axis of channels to be moved"):
        lb.data.from_arrays(x[:, 0, 0], channels="last")


@pytest.mark.parametrize("option", [{"flip": True}, {"shift": 1}, {"strip": [0, 1]}])
def test_flips_shifts_and_strips_are_refused_as_well(option: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"last, and {next(iter(option))} takes"):
        lb.data.from_arrays(LAST, **option)
    lb.data.from_arrays(LAST, channels="last", **option)


def test_signals_and_volumes_are_no_pictures() -> None:
    signals = lb.data.from_arrays(RNG.normal(size=(30, 2, 64)))
    with pytest.raises(ValueError, match=r"a picture 2 high and 64 wide.*signals \(C, T\)"):
        lb.evaluate(model_for(signals), signals, samples=1)
    volumes = lb.data.from_arrays(RNG.normal(size=(30, 1, 8, 8, 8)))
    with pytest.raises(ValueError, match=r"before them \(1 x 8\) for channels; for volumes use"):
        lb.evaluate(model_for(volumes), volumes, samples=1)
    for data in (signals, volumes):
        lb.evaluate(model_for(data, MLP), data, samples=1)


@pytest.mark.parametrize("shape", [(1, 16, 12), (3, 16, 12), (16, 16), (8, 9, 9), (1, 64, 9)])
def test_pictures_are_pictures(shape: tuple[int, ...]) -> None:
    data = lb.data.from_arrays(RNG.normal(size=(30, *shape)))
    lb.evaluate(model_for(data), data, samples=1)


def test_a_convolution_of_the_users_own_along_time_is_right() -> None:
    class Along(torch.nn.Module):
        def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(
                torch.nn.Conv1d(2, 3, 5), torch.nn.Flatten(), torch.nn.LazyLinear(4)
            )
            self.out_shape = out_shape
            self.layers(torch.zeros(1, *in_shape))

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.layers(value).reshape(-1, *self.out_shape)

    data = lb.data.from_arrays(RNG.normal(size=(30, 2, 64)))
    model = lb.VAE(
        lb.priors.StandardNormal((2,)),
        lb.posteriors.DiagonalNormal((2, 64), (2,), network=Along),
        lb.likelihoods.Normal((2,), (2, 64)),
    )
    lb.evaluate(model, data, samples=1)
