"""Folders of pictures: every kind of file that people have, one size or a stated policy, and
refusals by file name.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.data import folders
from lowerbound.supports import Levels
from lowerbound.utils import memory
from tests.pictures import colour_pictures

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "mes photos d'été"
    path.mkdir()
    return path


def colours(height: int = 6, width: int = 8) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **settings: object) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, **settings)
    return pixels


def loaded(folder: Path, **options: object) -> torch.Tensor:
    return lb.data.load(folder, splits="all", **options)["all"].values


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file from its chunks, whatever they claim."""
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


def test_pictures_come_in_sorted_order_with_their_sub_folder_as_label(folder: Path) -> None:
    names = ("b/2.png", "a/z.PNG", "c d/1.webp", "b/é/1.png")
    pixels = {name: save(folder / name, colours(), lossless=True) for name in names}
    (folder / "b" / "notes.txt").write_text("ignored")
    (folder / ".thumbnails").mkdir()
    save(folder / ".thumbnails" / "1.png", colours(2, 2))
    (folder / "a" / "._z.png").write_bytes(b"macOS writes these")
    data = lb.data.load(str(folder), splits="all")
    order = ("a/z.PNG", "b/2.png", "b/é/1.png", "c d/1.webp")
    assert np.array_equal(
        data["all"].values.numpy(), np.stack([pixels[n].transpose(2, 0, 1) for n in order])
    )
    assert data["all"].y.tolist() == [0, 1, 1, 2]
    assert data.event_shape == (3, 6, 8)
    assert data.support == Levels(256)
    assert data.name == str(folder.resolve())


def test_pictures_beside_each_other_have_no_labels_and_are_split(folder: Path) -> None:
    for i in range(20):
        save(folder / f"{i:02}.png", colours())
    data = lb.data.load(folder)
    assert [len(data[s]) for s in ("train", "valid", "test")] == [16, 2, 2]
    assert data["train"].y is None


def test_grey_stays_grey_only_where_all_are(folder: Path) -> None:
    grey = save(folder / "1.png", colours()[..., 0])
    save(folder / "2.png", (colours() > 127)[..., 0])
    assert loaded(folder).shape == (2, 1, 6, 8)
    assert np.array_equal(loaded(folder)[0, 0].numpy(), grey)
    assert loaded(folder)[1].unique().tolist() == [0, 255]
    save(folder / "3.png", colours())
    assert loaded(folder).shape == (3, 3, 6, 8)
    assert np.array_equal(loaded(folder)[0].numpy(), np.stack([grey] * 3))


def test_black_pictures_keep_their_256_levels(folder: Path) -> None:
    save(folder / "1.png", np.ones((6, 8), np.uint8))
    assert lb.data.load(folder, splits="all").support == Levels(256)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("white", "levels"), [(4095, 4096), (65_535, 65_536), (200, 256)])
def test_16_bit_grey_keeps_its_range(folder: Path, suffix: str, white: int, levels: int) -> None:
    """A sensor of 12 bits has 4,096 greys, of which rounding to 8 bits left 17."""
    values = np.linspace(0, white, 600).astype(np.uint16).reshape(20, 30)
    save(folder / f"1{suffix}", values)
    with Image.open(folder / f"1{suffix}") as image:
        assert image.mode.startswith("I")
    data = lb.data.load(folder, splits="all")
    assert data.support == Levels(levels)
    assert np.array_equal(data["all"].values[0, 0].numpy(), values)
    x = data.examples("all")
    assert torch.allclose(x[0, 0], torch.from_numpy(values.astype(np.float32)) / (levels - 1))
    assert data.support.check(x).all()


def test_another_folder_of_a_sensor_is_read_on_the_same_scale(folder: Path) -> None:
    save(folder / "1.png", np.array([[0, 4000]], np.uint16))
    data = lb.data.load(folder, splits="all")
    assert data.options["levels"] == 4096
    save(folder / "1.png", np.array([[0, 400]], np.uint16))
    again = lb.data.load(folder, **data.options)
    assert again.examples("all").flatten().tolist() == pytest.approx([0, 400 / 4095])
    save(folder / "1.png", np.array([[0, 5000]], np.uint16))
    with pytest.raises(ValueError, match="integers from 0 to 5000, which are not 4096 levels"):
        lb.data.load(folder, **data.options)


def test_16_bit_grey_is_scaled_without_going_beyond_white(folder: Path) -> None:
    edge = np.kron(np.array([[0, 4095]], np.uint16), np.ones((8, 4), np.uint16))
    save(folder / "1.png", edge)
    assert lb.data.load(folder, size=(7, 7), splits="all").support == Levels(4096)
    flat = np.full((9, 12), 3000, np.uint16)
    save(folder / "1.png", flat)
    assert loaded(folder, size=(4, 4)).unique().tolist() == [3000]


def test_decoded_16_bit_pictures_are_kept(folder: Path, cache: Path, monkeypatch) -> None:
    monkeypatch.setattr(folders, "WORTH", 1)
    values = RNG.integers(0, 4096, (3, 8, 8)).astype(np.uint16)
    for i, value in enumerate(values):
        save(folder / f"{i}.png", value)
    first = loaded(folder)
    monkeypatch.setattr(folders, "_decoded_all", None)  # what is kept is not decoded again
    for how in ("load", "map"):
        data = lb.data.load(folder, splits="all", memory=how)
        assert data.support == Levels(4096)
        assert np.array_equal(data["all"].values[:3].numpy()[:, 0], values)
    assert np.array_equal(first[:, 0].numpy(), values)


def test_tiff_is_what_png_is(folder: Path) -> None:
    pixels = colours()
    for name, mode in (("1", None), ("2", "L"), ("3", "P"), ("4", "CMYK")):
        save(folder / "png" / f"{name}.png", pixels, None if mode == "CMYK" else mode)
        save(folder / "tif" / f"{name}.TIFF", pixels, mode)
    x = lb.data.load(folder / "tif", splits="all").examples("all")
    assert torch.equal(x[:3], lb.data.load(folder / "png", splits="all").examples("all")[:3])
    assert torch.equal(x[3], x[0])  # CMYK without compression


def deep_colours(path: Path) -> None:
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(6))
    head = (b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0))
    path.write_bytes(png(head, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))


def pages(path: Path) -> None:
    first, *rest = (Image.fromarray(colours()) for _ in range(3))
    first.save(path, save_all=True, append_images=rest)


def white_is_zero(path: Path) -> None:
    save(path, np.ones((6, 8), np.uint16))
    content = path.read_bytes()
    tag = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, one number of 16 bits
    assert content.count(tag + b"\1") == 1
    path.write_bytes(content.replace(tag + b"\1", tag + b"\0"))


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep.png": (deep_colours, "has 16 bits a colour, of which 8 would be left"),
    "float.tif": (
        lambda path: Image.fromarray(np.ones((6, 8), np.float32)).save(path),
        "holds floating-point values",
    ),
    "inverted.tif": (white_is_zero, "has 16 bits of which zero is white"),
    "pages.tif": (pages, "holds 3 pages, of which one would be taken"),
    "below.tif": (
        lambda path: Image.fromarray(np.full((6, 8), -1, np.int32)).save(path),
        "holds values from -1 to -1",
    ),
    "above.tif": (
        lambda path: Image.fromarray(np.full((6, 8), 70_000, np.int32)).save(path),
        "holds values from 70000 to 70000",
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_would_not_be_what_it_is_is_refused(folder: Path, name: str) -> None:
    write, message = UNFIT[name]
    write(folder / name)
    with pytest.raises(ValueError, match=f"{name} {message}") as error:
        lb.data.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["L", None])
def test_8_and_16_bits_side_by_side_are_refused(folder: Path, mode: str | None) -> None:
    save(folder / "1.png", colours(), mode)
    save(folder / "2.png", np.ones((6, 8), np.uint16))
    with pytest.raises(ValueError, match=r"8 bits \(1.png.*greys of 16 \(2.png.*bring them to one"):
        lb.data.load(folder)


def test_palettes_and_cmyk_are_colours(folder: Path) -> None:
    pixels = np.kron(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8), np.ones((8, 8, 1), np.uint8))
    save(folder / "1.png", pixels, "P")
    save(folder / "2.jpg", pixels, "CMYK", quality=100)
    x = loaded(folder).int().numpy()
    assert np.array_equal(x[0], pixels.transpose(2, 0, 1))
    assert np.abs(x[1] - pixels.transpose(2, 0, 1)).max() < 10


def test_transparent_pictures_lie_on_white(folder: Path) -> None:
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = (0, 128, 255)
    save(folder / "1.png", pixels)
    assert loaded(folder)[0, 0].tolist() == [[255, 127, 0]]
    (folder / "1.png").unlink()
    Image.fromarray(pixels[..., [0, 3]], "LA").save(folder / "2.png")
    x = loaded(folder)
    assert x.shape == (1, 1, 1, 3)
    assert x.flatten().tolist() == [255, 127, 0]
    (folder / "2.png").unlink()
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.save(folder / "3.png", transparency=1)
    assert loaded(folder)[0].permute(1, 2, 0).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_pictures_are_turned_as_their_exif_data_say(folder: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    pixels = save(folder / f"1.{suffix}", colours(4, 6), exif=exif, lossless=True)
    assert np.array_equal(loaded(folder)[0].numpy(), np.rot90(pixels, -1).transpose(2, 0, 1))


def test_mixed_sizes_are_refused_unless_a_size_is_given(folder: Path) -> None:
    save(folder / "1.png", colours(6, 8))
    save(folder / "2.png", colours(8, 6))
    with pytest.raises(
        ValueError, match=r"1.png is 6x8, 2.png is 8x6.*size=\(H, W\) \(--data.size"
    ) as error:
        lb.data.load(folder)
    assert "\n" not in str(error.value)
    data = lb.data.load(folder, splits="all", size=(5, 4))
    assert data.event_shape == (3, 5, 4)
    assert data.options["size"] == [5, 4]


def test_a_picture_is_scaled_to_cover_and_cropped_at_its_centre(folder: Path) -> None:
    stripes = np.zeros((4, 12), np.uint8)
    stripes[:, 4:8] = 200  # the middle third of a wide picture is what a square of its height keeps
    save(folder / "1.png", stripes)
    assert loaded(folder, size=(4, 4)).unique().tolist() == [200]
    larger = loaded(folder, size=(8, 8))
    assert larger[0, 0, 4, 4] == 200
    assert torch.equal(larger, larger.flip(-1))
    save(folder / "1.png", stripes.T)
    assert loaded(folder, size=(4, 4)).unique().tolist() == [200]
    save(folder / "1.png", colours(6, 8))
    assert torch.equal(loaded(folder, size=(6, 8)), loaded(folder))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((4,), r"size is \(4,\): it must be a height and a width"),
        ((0, 4), "at least 1"),
        (7, r"size is \(7,\)"),
    ],
)
def test_a_size_that_is_none_is_refused(folder: Path, size: object, message: str) -> None:
    save(folder / "1.png", colours())
    with pytest.raises(ValueError, match=message):
        lb.data.load(folder, size=size)


def truncated(path: Path, kind: str) -> None:
    save(path, colours(40, 40), format=kind)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.png": (lambda path: path.write_bytes(b""), "no PNG, JPEG, WebP or TIFF picture"),
    "text.jpg": (lambda path: path.write_text("hello"), "no PNG, JPEG, WebP or TIFF picture"),
    "truncated.png": (lambda path: truncated(path, "png"), "cannot be decoded"),
    "truncated.jpg": (lambda path: truncated(path, "jpeg"), "cannot be decoded"),
    "truncated.webp": (lambda path: truncated(path, "webp"), "cannot be decoded"),
    "bad chunk.png": (
        lambda path: path.write_bytes(png(header(8, 6), (b"IDAT", b"garbage"), (b"IEND", b""))),
        "cannot be decoded",
    ),
    "no height.png": (
        lambda path: path.write_bytes(
            png(header(8, 0), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        ),
        "cannot be decoded",
    ),
    "bomb.png": (
        lambda path: path.write_bytes(
            png(header(50_000, 50_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        ),
        r"too large a picture: Image size \(2500000000 pixels\) exceeds limit",
    ),
    "smaller bomb.png": (
        lambda path: path.write_bytes(
            png(header(10_000, 10_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        ),
        r"too large a picture: Image size \(100000000 pixels\) exceeds limit",
    ),
    "postscript.png": (
        lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
        "no PNG, JPEG, WebP or TIFF picture",
    ),
    "animation.png": (
        lambda path: Image.fromarray(colours()).save(path, format="gif"),
        "no PNG, JPEG, WebP or TIFF picture",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_picture_is_refused_by_its_name(folder: Path, name: str) -> None:
    save(folder / "1.png", colours())
    write, message = BROKEN[name]
    write(folder / name)
    with pytest.raises(ValueError, match=f"{name}.*{message}") as error:
        lb.data.load(folder)
    assert "\n" not in str(error.value)


def test_a_folder_without_pictures_says_what_it_holds(folder: Path) -> None:
    with pytest.raises(ValueError, match="été holds no pictures .*, and no other files"):
        lb.data.load(folder)
    (folder / "a").mkdir()
    for name in ("a/1.raw", "b.txt", "c"):
        (folder / name).write_text("x")
    with pytest.raises(
        ValueError, match=r"holds no pictures \(.png, .jpg, .jpeg, .webp, .tif, .tiff\) among its 3"
    ):
        lb.data.load(folder)


def test_pictures_both_beside_and_in_sub_folders_are_refused(folder: Path) -> None:
    save(folder / "1.png", colours())
    save(folder / "a" / "2.png", colours())
    with pytest.raises(
        ValueError, match=r"1 pictures beside its sub-folders \(1.png, for one\) and 1 in them"
    ):
        lb.data.load(folder)


def test_more_pictures_than_memory_are_refused_before_they_are_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        (folder / f"{i}.png").write_bytes(
            png(header(9_000, 9_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
        )
    monkeypatch.setattr(memory, "physical_memory", lambda: 200_000_000)
    with pytest.raises(ValueError, match="été needs 0.2 GiB, this machine has 0.2 GiB"):
        lb.data.load(folder, memory="load")
    with pytest.raises(ValueError, match="needs 279.4 GiB"):
        lb.data.load(folder, size=(100_000, 1_000_000))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, in which everything is worth being kept."""
    monkeypatch.setenv("LOWERBOUND_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "WORTH", 0)
    monkeypatch.setattr(folders, "AT_ONCE", 3)
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_decoded_pictures_are_kept_and_not_decoded_again(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.stack([save(folder / f"{i}.png", colours()).transpose(2, 0, 1) for i in range(10)])
    assert np.array_equal(loaded(folder).numpy(), pixels)
    assert len(kept(cache)) == 1
    monkeypatch.setattr(folders, "_opened", lambda file: pytest.fail(f"{file} was opened again"))
    assert np.array_equal(loaded(folder).numpy(), pixels)
    data = lb.data.load(folder, memory="map")
    assert data.is_mapped
    assert data.sha256 == lb.data.load(folder).sha256
    assert torch.equal(data.examples("train"), lb.data.load(folder).examples("train"))


@pytest.mark.parametrize("change", ["content", "new", "gone", "renamed", "size"])
def test_a_folder_that_has_changed_is_decoded_anew(folder: Path, cache: Path, change: str) -> None:
    for i in range(5):
        save(folder / f"{i}.png", colours())
    before = loaded(folder)
    options = {}
    if change == "content":
        save(folder / "2.png", colours())
        os.utime(folder / "2.png", ns=(1, 1))
    elif change == "new":
        save(folder / "5.png", colours())
    elif change == "gone":
        (folder / "2.png").unlink()
    elif change == "renamed":
        (folder / "2.png").rename(folder / "7.png")
    else:
        options = {"size": (4, 4)}
    after = loaded(folder, **options)
    assert after.shape != before.shape or not torch.equal(after, before)
    assert len(kept(cache)) == (
        2 if change == "size" else 1
    )  # the one of before is of no use any more


def test_what_is_kept_and_damaged_is_made_anew(folder: Path, cache: Path) -> None:
    for i in range(5):
        save(folder / f"{i}.png", colours())
    before = loaded(folder)
    for damage in (b"", b"nonsense", kept(cache)[0].read_bytes()[:-10]):
        kept(cache)[0].write_bytes(damage)
        assert torch.equal(loaded(folder), before)


def test_a_full_disk_costs_a_note_and_not_the_training(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.stack([save(folder / f"{i}.png", colours()).transpose(2, 0, 1) for i in range(5)])

    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def write_atomic(path: Path, write: Callable[[io.BytesIO], object]) -> None:
        write(Full())

    monkeypatch.setattr(folders, "write_atomic", write_atomic)
    with pytest.warns(
        UserWarning,
        match="could not be kept in .*: No space left on device; they will be decoded again",
    ):
        assert np.array_equal(loaded(folder).numpy(), pixels)
    assert not kept(cache)
    with pytest.raises(OSError, match="No space left"):
        lb.data.load(folder, memory="map")
    monkeypatch.setattr(folders, "_room", lambda kept: 100)
    with pytest.warns(UserWarning, match="GiB are free"):
        assert np.array_equal(loaded(folder).numpy(), pixels)
    monkeypatch.setattr(memory, "physical_memory", lambda: 100)
    with pytest.raises(
        ValueError, match="needs .* this machine has .* or make room in the cache folder"
    ):
        loaded(folder)


def test_a_broken_picture_leaves_nothing_behind(folder: Path, cache: Path) -> None:
    for i in range(5):
        save(folder / f"{i}.png", colours(40, 40))
    truncated(folder / "3.png", "png")
    with pytest.raises(ValueError, match=r"3.png cannot be decoded") as error:
        loaded(folder)
    assert "\n" not in str(error.value)
    assert not kept(cache)


def test_few_pictures_are_not_kept(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "WORTH", 2**25)
    save(folder / "1.png", colours())
    loaded(folder)
    assert not kept(cache)


@pytest.mark.parametrize("option", ["array", "labels"])
def test_options_of_other_sources_are_refused(folder: Path, option: str) -> None:
    save(folder / "1.png", colours())
    with pytest.raises(
        ValueError, match=f"{option} .* is for a .npz file.*, and .* is a folder of pictures"
    ):
        lb.data.load(folder, **{option: "x"})


def test_real_pictures_survive_the_way_through_files(real_data: Path, folder: Path) -> None:
    x, y = colour_pictures(real_data, "test")
    for i in range(200):
        save(folder / str(y[i]) / f"{i:04}.webp", x[i].transpose(1, 2, 0), lossless=True)
    data = lb.data.load(folder, splits="all")
    order = np.lexsort((np.arange(200), y[:200]))
    assert np.array_equal(data["all"].values.numpy(), x[:200][order])
    assert data["all"].y.tolist() == sorted(y[:200].tolist())
