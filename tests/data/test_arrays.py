"""The user's own data: what is read, on which support, and what is refused in one line."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import lowerbound as lb
from lowerbound.data import columns
from lowerbound.supports import BINARY, COUNTS, INTEGER, REAL, UNIT, Levels
from lowerbound.utils import memory

RNG = np.random.default_rng(0)


def saved(folder: Path, array: object, name: str = "données.npy") -> Path:
    np.save(folder / name, array)
    return folder / name


@pytest.mark.parametrize(
    ("array", "support"),
    [
        (RNG.integers(0, 256, (20, 3, 5), dtype=np.uint8), Levels(256)),
        (RNG.integers(0, 2, (20, 3), dtype=np.uint8), BINARY),
        (RNG.integers(0, 2, (20, 3)).astype(bool), BINARY),
        (RNG.integers(0, 2, (20, 3)).astype(float), BINARY),
        (RNG.random((20, 4)), UNIT),
        (RNG.normal(size=(20, 4)).astype(np.float16), REAL),
        (RNG.integers(-5, 900, (20, 4)), INTEGER),
        (RNG.integers(0, 900, (20, 4)), COUNTS),
        (RNG.integers(0, 900, (20, 4)).astype(float), COUNTS),
        (RNG.normal(size=20), REAL),
    ],
)
def test_the_support_is_the_smallest_that_holds_the_values(
    tmp_path: Path, array: np.ndarray, support: object
) -> None:
    data = lb.data.load(saved(tmp_path, array))
    assert data.support == support
    assert data.event_shape == array.shape[1:]
    x = data.examples("train")
    assert x.dtype == torch.float32
    assert bool(data.support.check(x).all())


def test_the_split_is_80_10_10_and_covers_every_example_once(tmp_path: Path) -> None:
    path = saved(tmp_path, np.arange(103, dtype=float)[:, None])
    data = lb.data.load(path)
    assert [len(data[s]) for s in ("train", "valid", "test")] == [83, 10, 10]
    values = torch.cat([data.examples(s) for s in ("train", "valid", "test")]).flatten()
    assert torch.equal(values.sort().values, torch.arange(103.0))


def test_the_split_follows_from_the_seed_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, RNG.normal(size=(50, 2)))
    same = [lb.data.load(path, seed=3).examples("test") for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], lb.data.load(path, seed=4).examples("test"))


def test_all_is_one_split_in_the_order_of_the_file(tmp_path: Path) -> None:
    array = RNG.normal(size=(7, 2)).astype(np.float32)
    data = lb.data.load(saved(tmp_path, array), splits="all")
    assert torch.equal(data.examples("all"), torch.from_numpy(array))


def test_levels_are_put_on_the_unit_grid(tmp_path: Path) -> None:
    array = np.array([[0, 4], [2, 1], [4, 4]])
    data = lb.data.load(saved(tmp_path, array), levels=5, splits="all")
    assert torch.equal(data.examples("all"), torch.tensor(array) / 4)
    assert data.support == Levels(5)


def test_a_npz_holds_examples_and_labels(tmp_path: Path) -> None:
    x, y = RNG.normal(size=(30, 2)), np.arange(30)
    np.savez(tmp_path / "a.npz", x=x, y=y, other=x[:5])
    data = lb.data.load(tmp_path / "a.npz", splits="all")
    assert torch.equal(data["all"].y, torch.arange(30))
    np.savez(tmp_path / "b.npz", samples=x)
    assert len(lb.data.load(tmp_path / "b.npz", splits="all")["all"]) == 30


def test_dynamic_binarisation_is_redrawn_in_training_and_fixed_elsewhere(
    digits: lb.data.Dataset,
) -> None:
    data = lb.data.load("digits", binarize="dynamic")
    index = torch.arange(100)
    assert not torch.equal(data.present("train", index), data.present("train", index))
    for split in data.splits:
        assert torch.equal(data.examples(split), data.examples(split))
    grey = digits.examples("train")
    drawn = torch.stack([data.present("train", index) for _ in range(300)]).mean(0)
    error = (grey[:100] * (1 - grey[:100]) / 300).sqrt()
    assert bool(((drawn - grey[:100]).abs() <= 5 * error + 1e-6).all())


def test_binarisation_of_what_is_not_grey_is_refused() -> None:
    with pytest.raises(ValueError, match=r"only values in \[0, 1\] can be binarised"):
        lb.data.from_arrays(RNG.normal(size=(30, 2)), binarize="dynamic")


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=RNG.normal(size=(30, 2)), y=np.arange(29))
    with pytest.raises(ValueError, match="30 examples but 29 labels"):
        lb.data.load(tmp_path / "a.npz")


class Evil:
    """Unpickling it would run code."""

    def __reduce__(self) -> object:
        return (Path("pwned").touch, ())


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([Evil()] * 5, dtype=object), "holds Python objects, which are never loaded"),
        (np.array([["a", "b"]] * 5), "values of type <U1"),
        (np.zeros((5, 2), dtype=complex), "values of type complex128"),
        (np.zeros((0, 2)), "holds no examples"),
        (np.zeros(()), "holds no examples"),
        (np.zeros((1, 2)), "holds 1 example: too few to be split"),
        (
            np.array([[0.0, np.nan], [1.0, np.inf], [0.0, 0.0]]),
            r"2 of 6 values that are NaN or infinite.*\(0, 1\)",
        ),
        (np.full((5, 2), 1e300), "10 of 10 values that are NaN or infinite in float32"),
    ],
)
def test_refused_in_one_line(
    tmp_path: Path, array: object, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path, array)
    with pytest.raises((ValueError, TypeError), match=message) as error, np.errstate(over="ignore"):
        lb.data.load(path)
    assert "\n" not in str(error.value)
    assert "données.npy" in str(error.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04broken"]
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}.*(empty|cannot be read|Python objects)") as error:
        lb.data.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_truncated_array_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.zeros((100, 3)))
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cannot be read as a numpy file"):
        lb.data.load(path)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digtis", {}, "did you mean 'digits'"),
        ("nowhere.npy", {}, "there is no file nowhere.npy"),
        ("digits", {"splits": "tran_test"}, "did you mean 'train_test'"),
        ("digits", {"binarize": "dynamik"}, "did you mean 'dynamic'"),
        ("digits", {"levels": 5}, "integers from 0 to 16, which are not 5 levels"),
        ("digits", {"levels": 1}, "at least 2"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(
    source: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lb.data.load(source, **options)


def test_a_folder_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "table.xlsx").write_text("a")
    with pytest.raises(ValueError, match="it is a folder"):
        lb.data.load(tmp_path / "folder.npy")
    with pytest.raises(ValueError, match="give a .npy, .npz, .csv or .parquet file"):
        lb.data.load(tmp_path / "table.xlsx")


def test_the_array_of_a_npz_must_be_named_where_it_is_not_clear(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=RNG.normal(size=(30, 2)), tables=RNG.normal(size=(30, 2)))
    with pytest.raises(ValueError, match=r"unknown array 'x'.*images, tables.*--data.array"):
        lb.data.load(tmp_path / "a.npz")
    assert lb.data.load(tmp_path / "a.npz", array="images").event_shape == (2,)


def test_changed_data_have_another_sum(tmp_path: Path) -> None:
    array = RNG.normal(size=(30, 2))
    first = lb.data.load(saved(tmp_path, array)).sha256
    array[7, 1] += 1e-3
    assert lb.data.load(saved(tmp_path, array)).sha256 != first


def declaring(shape: tuple[int, ...], version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file whose header declares a shape and that holds a few bytes."""
    stream = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    stream.write(np.lib.format.magic(*version))
    text = repr(header).encode()
    stream.write(len(text).to_bytes(2 if version == (1, 0) else 4, "little") + text + b"\n" * 8)
    return stream.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_an_array_larger_than_memory_is_refused_before_it_is_allocated(
    tmp_path: Path, version: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "physical_memory", lambda: int(23.4 * 2**30))
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("the array was read"))
    path = tmp_path / "à lire.npy"
    path.write_bytes(declaring((10 * 2**20, 1024), version))
    with pytest.raises(
        ValueError, match=r"à lire.npy needs 80.0 GiB, this machine has 23.4 GiB.*--data.memory"
    ) as error:
        lb.data.load(path, memory="load")
    assert "\n" not in str(error.value)
    with pytest.raises(
        ValueError, match=r"à lire.npy cannot be read.*it has been cut off"
    ) as error:
        lb.data.load(path)  # which leaves the values in their file
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("large", ["x", "y"])
def test_an_archive_is_measured_by_what_its_arrays_declare(tmp_path: Path, large: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("x", "y"):
            archive.writestr(f"{name}.npy", declaring((10**10 if name == large else 3, 1000)))
    with pytest.raises(ValueError, match=r"a.npz needs 74,505.8 GiB, this machine has .* GiB"):
        lb.data.load(tmp_path / "a.npz")


def test_an_array_that_is_not_asked_for_may_be_of_any_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 2)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("other.npy", declaring((10**10, 1000)))
        archive.writestr("notes.txt", "no array")
    assert len(lb.data.load(tmp_path / "a.npz", array="x", splits="all")["all"]) == 30
    with pytest.raises(ValueError, match="a.npz cannot be read as a numpy file"):
        lb.data.load(tmp_path / "a.npz", array="notes.txt")


def test_options_of_other_sources_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.zeros((5, 2)))
    for option in ({"array": "x"}, {"labels": "y"}, {"size": (4, 4)}):
        with pytest.raises(ValueError, match=r"is for a .* and .*données.npy is a .npy file"):
            lb.data.load(path, **option)


def test_another_file_is_read_on_the_scale_of_the_first(tmp_path: Path) -> None:
    """A card writes down what its levels were, so that integers mean the same whatever type and
    values they come in.
    """
    counts = np.array([[0, 3], [7, 200], [1, 1]])
    first = lb.data.load(saved(tmp_path, counts))
    assert first.options["levels"] == "none"
    again = lb.data.load(
        saved(tmp_path, counts.astype(np.uint8)), splits="all", levels=first.options["levels"]
    )
    assert torch.equal(again.examples("all"), torch.tensor(counts, dtype=torch.float32))
    binary = lb.data.load(saved(tmp_path, counts % 2))
    assert binary.options["levels"] == 2
    with pytest.raises(ValueError, match="which are not 2 levels"):
        lb.data.load(saved(tmp_path, counts.astype(np.uint8)), levels=binary.options["levels"])
    pixels = lb.data.load(saved(tmp_path, counts.astype(np.uint8)))
    dark = lb.data.load(saved(tmp_path, np.ones((3, 2), np.uint8)), levels=pixels.options["levels"])
    assert torch.allclose(dark.examples("test"), torch.tensor(1 / 255))


def with_header(header: str, values: bytes = b"") -> bytes:
    """A .npy whose header is any text."""
    padded = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded + values


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (30, 2)}"
DAMAGED = {
    "no end of a bracket": HEADER.replace("(30, 2)", "(30, 2"),
    "no end of a text": HEADER.replace("'<f8'", "'<f8"),
    "a header nested too deeply": HEADER.replace("(30, 2)", "(" * 700 + ")" * 700),
    "a negative size": HEADER.replace("30", "-30"),
    "a size that is no integer": HEADER.replace("30", "3e1"),
    "a type that there is not": HEADER.replace("<f8", "<q9"),
    "a type of several": HEADER.replace("'<f8'", "[('a', '<f8'), ('b', '<f8')]"),
    "no header": "",
    "another header": "[1, 2]",
    "zeros": "\0" * 40,
}


@pytest.mark.parametrize("memory", ["auto", "load"])
@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_header_is_one_line(tmp_path: Path, what: str, memory: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(with_header(DAMAGED[what], RNG.normal(size=(30, 2)).tobytes()))
    with pytest.raises((ValueError, TypeError), match=r"a.npy") as error:
        lb.data.load(path, memory=memory)
    assert "\n" not in str(error.value)


def test_a_file_that_is_longer_than_its_header_says_is_refused(tmp_path: Path) -> None:
    """One digit of a shape that was damaged would give other examples without a word."""
    values = RNG.normal(size=(30, 2)).tobytes()
    path = tmp_path / "a.npy"
    path.write_bytes(with_header(HEADER, values))
    assert len(lb.data.load(path, splits="all")["all"]) == 30
    for shape in ("(20, 2)", "(30, 1)", "(30,)"):
        path.write_bytes(with_header(HEADER.replace("(30, 2)", shape), values))
        for how in ("load", "map"):
            with pytest.raises(ValueError, match=r"declares \d+ bytes of values and holds 480"):
                lb.data.load(path, memory=how)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", with_header(HEADER.replace("30", "20"), values))
    with pytest.raises(ValueError, match=r"the array x is longer than its header declares"):
        lb.data.load(tmp_path / "a.npz")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_archive_is_one_line(tmp_path: Path, compressed: bool) -> None:
    """Wherever it is damaged: in what zip says, in the header, or in the values."""
    path = tmp_path / "a.npz"
    x = RNG.normal(size=(30, 2))
    (np.savez_compressed if compressed else np.savez)(path, x=x)
    whole = path.read_bytes()
    refused = unharmed = 0
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            again = lb.data.load(path, splits="all").examples("all")
        except (ValueError, OSError) as error:
            refused += "a.npz" in str(error) and "\n" not in str(error)
        else:  # a date, or another word of zip that says nothing of the values
            assert torch.equal(again, torch.from_numpy(x.astype(np.float32)))
            unharmed += 1
    assert refused + unharmed == len(range(0, len(whole), 7))
    assert refused > 60


def test_millions_of_columns_are_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one by one, and not all of them in one array of truth values."""
    x = np.zeros((4, 9_000))
    x[:, 1::6] = RNG.integers(0, 2, (4, 1500))
    x[:, 2::6] = RNG.random((4, 1500))
    x[:, 3::6] = RNG.integers(2, 99, (4, 1500))
    x[:, 4::6] = RNG.normal(size=(4, 1500)) - 3
    x[:, 5::6] = np.nan
    x[0, 5::6] = 7
    monkeypatch.setattr(columns, "AT_ONCE", 1000)
    data = lb.data.from_arrays(x, missing="marginalise", splits="all")
    expected = [BINARY, BINARY, UNIT, COUNTS, REAL, COUNTS] * 1500
    assert list(data.column_supports or ()) == expected
    alone = [lb.data.from_arrays(x[:, [j]], splits="all").support for j in range(5)]
    assert alone == expected[:5]  # and so is each by itself
