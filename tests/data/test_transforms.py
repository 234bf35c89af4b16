"""Transforms: noise that stays in its cell, augmentation that moves whole pictures, and what either
refuses.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data.transforms import Bernoulli, Dequantise, Flip, Shift, Transform
from lowerbound.supports import INTEGER, REAL, UNIT, Levels

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (40, 3, 6, 5), dtype=np.uint8)


@pytest.mark.parametrize("levels", [2, 17, 256, 65_536])
def test_noise_stays_in_the_cell_of_its_level(levels: int) -> None:
    v = torch.arange(levels).repeat(50)
    x = Dequantise(levels)(v / (levels - 1))
    assert bool(((x >= 0) & (x < 1)).all())
    below = x.double() * levels - v
    assert bool(((below >= 0) & (below <= 1)).all())
    assert abs(below.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(v))


def test_the_jacobian_turns_a_density_into_the_mass_of_a_cell() -> None:
    """The identity and the bound that the docstring states, for p(x) = 2x on [0, 1], whose cells
    have known mass.
    """
    levels, draws = 8, 40_000
    v = torch.arange(levels)
    x = Dequantise(levels)((v / (levels - 1)).expand(draws, levels))
    mass = ((v + 1) ** 2 - v**2) / levels**2  # of the cell [v/L, (v+1)/L)
    assert mass.sum() == 1
    density = 2 * x
    error = density.std(0) / levels / math.sqrt(draws)
    assert bool(((density.mean(0) / levels - mass).abs() < 4 * error).all())
    bound = density.log().mean(0) - math.log(levels)
    assert bool((bound < mass.log()).all())
    assert bool(
        (bound > mass.log() - 0.35).all()
    )  # the widest gap is that of the cell at 0: 1 - log 2 = 0.31


@pytest.mark.parametrize("shape", [(), (1,), (3,), (4,), (1, 3, 5)])
def test_a_binary_value_is_one_as_often_as_its_grey_value_says(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    n = 200_000
    grey = torch.rand(shape) if shape else torch.tensor(0.3)
    drawn = Bernoulli()(grey.expand(n, *shape))
    assert drawn.shape == (n, *shape)
    assert bool(((drawn == 0) | (drawn == 1)).all())
    error = (grey * (1 - grey) / n).sqrt()
    assert bool(((drawn.mean(0) - grey).abs() < 4.5 * error + 2.0**-24).all())


def test_black_stays_black_and_white_stays_white() -> None:
    drawn = Bernoulli()(torch.tensor([0.0, 1.0]).expand(500_000, 2))
    assert drawn.sum(0).tolist() == [0, 500_000]


@pytest.mark.parametrize("transform", [Bernoulli(), Dequantise(16), Flip(), Shift(1)])
def test_what_is_drawn_does_not_depend_on_the_precision_that_networks_compute_in(
    transform: Transform,
) -> None:
    """Within a graph in double precision it is presented where double is what torch makes by
    itself.
    """
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        try:
            found.append(
                transform(torch.linspace(0, 1, 16, dtype=torch.float32).reshape(4, 1, 2, 2))
            )
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*found)


def test_x_is_below_1_even_where_float32_rounds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch, "rand", lambda shape, generator, dtype: torch.full(shape, 1 - 2.0**-24, dtype=dtype)
    )
    assert Dequantise(256)(torch.ones(3)).max() < 1


@pytest.mark.parametrize(
    "options", [{}, {"levels": 300}, {"binarize": "threshold"}, {"splits": "train_test"}]
)
def test_dequantised_data_lie_on_the_unit_interval(options: dict[str, object]) -> None:
    data = lb.data.from_arrays(PICTURES, dequantize=True, **options)
    assert data.support is UNIT
    levels = 2 if "binarize" in options else options.get("levels", 256)
    assert data.log_levels_per_dim == pytest.approx(math.log(levels))
    assert torch.equal(data.examples("test"), data.examples("test"))
    index = torch.arange(5)
    assert not torch.equal(data.present("train", index), data.present("train", index))
    grid = lb.data.from_arrays(PICTURES, **options)
    v = grid.examples("test") * (levels - 1)
    assert torch.equal((data.examples("test") * levels).floor(), v.round())


def test_integers_and_their_grid_are_dequantised_alike() -> None:
    whole = lb.data.from_arrays(PICTURES, dequantize=True)
    grid = lb.data.from_arrays(PICTURES.astype(np.float32) / 255, levels=256, dequantize=True)
    assert torch.equal(whole.examples("valid"), grid.examples("valid"))
    assert whole.options["levels"] == grid.options["levels"] == 256


@pytest.mark.parametrize(
    "array",
    [
        RNG.normal(size=(30, 4)),
        RNG.random((30, 4)),
        RNG.integers(-3, 500, (30, 4)),
        RNG.integers(0, 9, (30, 4)),
    ],
)
def test_only_levels_are_dequantised(array: np.ndarray) -> None:
    with pytest.raises(
        ValueError, match=r"only data on grey levels can be dequantised.*levels=256"
    ) as error:
        lb.data.from_arrays(array, dequantize=True)
    assert "\n" not in str(error.value)


def test_dequantising_as_other_levels_is_refused() -> None:
    assert Dequantise(17).support(Levels(17)) is UNIT
    with pytest.raises(ValueError, match="the 17 levels .* cannot be dequantised as 256 levels"):
        Dequantise(256).support(Levels(17))


def test_data_not_dequantised_have_no_jacobian(digits: lb.data.Dataset) -> None:
    assert digits.log_levels_per_dim is None


def test_each_picture_is_mirrored_on_its_own_half_of_the_time() -> None:
    x = torch.rand(1000, 3, 4, 5)
    turned = Flip()(x)
    mirrored = (turned == x.flip(-1)).flatten(1).all(1)
    assert bool((mirrored | (turned == x).flatten(1).all(1)).all())
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(1000)


@pytest.mark.parametrize("shape", [(1, 7, 9), (3, 7, 9), (7, 9)])
def test_a_shift_moves_whole_pictures_and_repeats_the_edge(shape: tuple[int, ...]) -> None:
    s, n = 2, 2000
    x = torch.rand(n, *shape)
    padded = torch.nn.functional.pad(x.reshape(n, -1, 7, 9), (s, s, s, s), mode="replicate")
    moved = Shift(s)(x).reshape(n, -1, 7, 9)
    counts = torch.zeros(2 * s + 1, 2 * s + 1)
    for down in range(-s, s + 1):
        for right in range(-s, s + 1):
            window = padded[:, :, s - down : s - down + 7, s - right : s - right + 9]
            counts[down + s, right + s] = (moved == window).flatten(1).all(1).sum()
    assert counts.sum() == n  # every picture is one of the 25 windows
    assert bool(((counts - n / 25).abs() < 5 * math.sqrt(n / 25)).all())


def test_augmentation_is_for_training_only() -> None:
    plain = lb.data.from_arrays(PICTURES)
    data = lb.data.from_arrays(PICTURES, flip=True, shift=2)
    for split in ("train", "valid", "test"):
        assert torch.equal(data.examples(split), plain.examples(split))
    index = torch.arange(32)
    assert not torch.equal(data.present("train", index), plain.present("train", index))
    assert data.support == plain.support == Levels(256)
    assert bool(data.support.check(data.present("train", index)).all())
    assert data.sha256 == plain.sha256


def test_augmentation_leaves_the_noise_of_the_evaluation_as_it_is() -> None:
    plain, data = (lb.data.from_arrays(PICTURES, dequantize=True, shift=s) for s in (0, 1))
    assert torch.equal(plain.examples("test"), data.examples("test"))


def test_augmentation_follows_from_the_global_state() -> None:
    data = lb.data.from_arrays(PICTURES, flip=True, shift=2, dequantize=True)
    torch.manual_seed(3)
    first = data.present("train", torch.arange(8))
    torch.manual_seed(3)
    assert torch.equal(first, data.present("train", torch.arange(8)))


@pytest.mark.parametrize(
    "array", [RNG.normal(size=(30, 4)), RNG.normal(size=30), np.zeros((30, 2, 3, 4, 5))]
)
@pytest.mark.parametrize("options", [{"flip": True}, {"shift": 1}])
def test_what_is_no_picture_is_not_augmented(array: np.ndarray, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} is for pictures") as error:
        lb.data.from_arrays(array, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (-1, "shift is -1: it must be"),
        (1.5, "shift is 1.5"),
        (5, "shift is 5, .* 6x5 out of sight; at most 4"),
    ],
)
def test_a_shift_out_of_range_is_refused(shift: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lb.data.from_arrays(PICTURES, shift=shift)


def test_supports_are_those_of_the_values() -> None:
    for support in (REAL, INTEGER, Levels(17)):
        assert Flip().support(support) is support
        assert Shift(1).support(support) is support
