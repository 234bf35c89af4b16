"""Folders of pictures: PNG, JPEG, WebP and TIFF, of one size or brought to one.

Pictures are taken in the sorted order of their paths, as they are meant to be seen: turned as their
EXIF data say, transparent ones on white, palettes and CMYK as colours, and of several frames the
first (of a TIFF they are pages of their own, and refused). They stay grey, (1, H, W), only where
all files are grey, and are (3, H, W) otherwise.

Greys of 16 bits keep all of them. A sensor of 12 bits writes 0 to 4095 into such files; so the
number of levels is the power of two that holds the largest value of the folder, 4096 there, and it
is written down, so that other pictures of the sensor are read on the same scale. Where pictures of
8 and of 16 bits stand side by side, nobody knows whose white is whose, and they are refused. So are
16-bit colours, of which pillow would keep 8 bits.

The policy for sizes: nothing is resized unasked. With a size (H, W), each picture is scaled
(bicubic) until it covers H x W, and the overhang is cut off equally on both sides: nothing is
stretched or padded.

Pictures are decoded by as many threads as there are processors: pillow lets go of Python's lock
where it decodes. What is decoded, from 32 MiB on, is kept in the cache (LOWERBOUND_CACHE, or the
system's cache folder) and read from there the next time, as any .npy file is. It is found by the
paths, sizes and times of change of the files, and by the size asked for; of a folder that has
changed the old one is removed. Where it cannot be kept, training goes on without.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.dataset import Stored
from lowerbound.data.fetch import cache_folder
from lowerbound.data.mapped import MappedArray, Memory, is_large
from lowerbound.shapes import as_shape
from lowerbound.utils.files import write_atomic
from lowerbound.utils.memory import GIB, check_fits
from lowerbound.utils.messages import first_line
from lowerbound.utils.progress import counting

if TYPE_CHECKING:  # pillow is imported where pictures are opened, and not for help
    from PIL import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
# no other of pillow's decoders is tried, whatever a file pretends to be
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
# bytes of decoded pictures from which on they are kept: 32 MiB are decoded in about a second
WORTH = 2**25
AT_ONCE = 256  # pictures that are decoded, or wait to be taken, at a time
VERSION = 2  # of what decoding means: another one finds nothing that an earlier one has kept
GREY = ("1", "L", "LA")  # and those of 16 bits, whose names begin with I
DEEP = 2**16  # levels that 16 bits can hold
WHITE_IS_ZERO = (
    262,
    0,
)  # the tag of a TIFF that says so (PhotometricInterpretation), and its value
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def read(path: Path, size: Sequence[int] | None = None, memory: Memory = "auto") -> Stored:
    """The pictures in a folder and below it; a picture's label is the sub-folder of the root that
    it lies in.

    Args:
        path: the folder. The names of its sub-folders, sorted, are the labels 0, 1, ...; pictures
            that lie in the folder itself have none.
        size: (H, W), to which every picture is scaled and cropped; None takes pictures of one size
            as they are.
        memory: "map" leaves the decoded pictures in the cache, "load" reads them, "auto" maps what
            is large.

    Raises:
        ValueError: no pictures, one that cannot be decoded or is a decompression bomb, pictures of
            several sizes without ``size``, of 8 and of 16 bits, pictures both beside sub-folders
            and in them, a link out of the folder, or more of them than fit into memory.
    """
    wanted = None if size is None else as_shape(size, "size")
    if wanted is not None and len(wanted) != 2:
        raise ValueError(
            f"size is {wanted}: it must be a height and a width, as in size=(64, 64) (--data.size "
            "[64,64])"
        )
    everything = [file for file in sorted(path.rglob("*")) if _is_file_of(path, file)]
    files = [
        f
        for f in everything
        if f.suffix.lower() in SUFFIXES and not _is_hidden(f.relative_to(path))
    ]
    if not files:
        among = f" among its {len(everything):,} files" if everything else ", and no other files"
        raise ValueError(f"{path} holds no pictures ({', '.join(SUFFIXES)}){among}")
    y = _labels(path, files)
    cached = _place(path, files, wanted)
    x = _decoded_before(cached, len(files), memory)
    if x is None:
        x = _decoded_all(path, files, wanted, cached, memory)
    return Stored(x, y, levels=_levels(x), source=str(path))


def _levels(x: NDArray[Any] | MappedArray) -> int:
    """The power of two that holds all values; 256 at least, which 8 bits always have."""
    if x.dtype == np.uint8:
        return 256
    parts = [x] if isinstance(x, np.ndarray) else (part for _, part in x.chunks())
    bits: int = max(int(part.max()) for part in parts).bit_length()
    return 1 << max(8, bits)


def _place(root: Path, files: Sequence[Path], size: tuple[int, ...] | None) -> Path:
    """Where the decoded pictures are kept: a folder for each root and size, in it a file for each
    state of its files.
    """
    state = hashlib.sha256(f"{VERSION} {np.little_endian}".encode())
    for file in files:
        about = file.stat()
        state.update(
            f"{file.relative_to(root)}\0{about.st_size} {about.st_mtime_ns}\n".encode(
                errors="surrogateescape"
            )
        )
    name = hashlib.sha256(f"{root.resolve()} {size}".encode(errors="surrogateescape"))
    return cache_folder() / "decoded" / name.hexdigest()[:32] / f"{state.hexdigest()[:32]}.npy"


def _decoded_before(cached: Path, n: int, memory: Memory) -> NDArray[Any] | MappedArray | None:
    """What has been decoded before, or None."""
    try:
        x = MappedArray.of_npy(cached)
    except (OSError, ValueError):  # not there, or cut off by something else: it is decoded again
        return None
    if x.dtype not in (np.uint8, np.uint16) or x.ndim != 4 or len(x) != n:
        return None
    return _as_asked(x, cached, memory, str(cached))


def _as_asked(
    x: MappedArray, cached: Path, memory: Memory, where: str
) -> NDArray[Any] | MappedArray:
    needed = math.prod(x.shape) * x.dtype.itemsize
    if memory == "map" or (memory == "auto" and is_large(needed)):
        return x
    check_fits(needed, where)
    # read where it is used, and where somebody writes, copied: fresh memory for all of it would
    # take as long as decoding
    values: NDArray[Any] = np.load(cached, mmap_mode="c")
    return values


def _decoded_all(
    root: Path, files: Sequence[Path], wanted: tuple[int, ...] | None, cached: Path, memory: Memory
) -> NDArray[Any] | MappedArray:
    """All pictures, (n, C, H, W), kept in the cache where they are worth it."""
    failure: str | None = None
    with (
        _as_pillow_warns(),
        ThreadPoolExecutor(_workers()) as pool,
        counting("decoding pictures") as on_progress,
    ):
        heads = [head for batch in _batches(files) for head in pool.map(_head, batch)]
        is_grey, dtype = all(head.is_grey for head in heads), _depth(root, files, heads)
        pixels = (
            sum(head.pixels for head in heads) if wanted is None else len(files) * math.prod(wanted)
        )
        needed, room = (1 if is_grey else 3) * pixels * dtype.itemsize, _room(cached)
        is_kept = memory == "map" or (memory == "auto" and is_large(needed)) or needed >= WORTH
        if needed > room and is_kept:
            failure = f"{needed / GIB:.1f} GiB are needed, and {room / GIB:.1f} GiB are free"
        if memory == "load" or failure is not None:
            check_fits(
                needed,
                str(root),
                "keep fewer pictures, give a smaller --data.size, or make room in the cache folder",
            )
        first = _decoded(files[0], is_grey, wanted)
        shape = (len(files), *first.shape)

        def write(take: Callable[[int, Pixels], object]) -> None:
            done = 0
            for batch in _batches(files):
                for file, picture in zip(
                    batch, pool.map(lambda f: _decoded(f, is_grey, wanted), batch), strict=True
                ):
                    if picture.shape != first.shape:
                        raise _several_sizes(root, (files[0], first), (file, picture))
                    take(done, picture)
                    done += 1
                on_progress(done, len(files))

        if is_kept and failure is None:
            try:
                cached.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(cached, lambda stream: _write_npy(stream, dtype, shape, write))
                for other in cached.parent.glob("*.npy"):
                    if other != cached:
                        other.unlink(missing_ok=True)  # of the files as they were before
                return _as_asked(MappedArray.of_npy(cached), cached, memory, str(root))
            except OSError as error:  # a full disk, or a folder that may not be written to
                if memory == "map":
                    raise
                failure = str(error.strerror)
            check_fits(needed, str(root))
        x = np.empty(shape, dtype)
        write(x.__setitem__)
    if failure is not None:
        warnings.warn(
            f"the decoded pictures ({needed / GIB:.2f} GiB) could not be kept in {cached.parent}: "
            f"{failure}; they will be decoded again the next time",
            stacklevel=2,
        )
    return x


def _room(cached: Path) -> int:
    """Bytes that are free where the decoded pictures would be kept."""
    there = next(folder for folder in cached.absolute().parents if folder.exists())
    return shutil.disk_usage(there).free


def _write_npy(
    stream: IO[bytes],
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    write: Callable[[Callable[[int, Pixels], object]], None],
) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    write(lambda _, picture: stream.write(np.ascontiguousarray(picture).data))


def _workers() -> int:
    """As many threads as there are processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # Linux alone tells
        return os.cpu_count() or 1


def _batches(files: Sequence[Path]) -> Iterator[Sequence[Path]]:
    return (files[start : start + AT_ONCE] for start in range(0, len(files), AT_ONCE))


def _several_sizes(root: Path, one: tuple[Path, Pixels], other: tuple[Path, Pixels]) -> ValueError:
    a, b = ("x".join(map(str, picture.shape[1:])) for _, picture in (one, other))
    return ValueError(
        f"{root} holds pictures of several sizes ({one[0].name} is {a}, {other[0].name} is {b}); "
        "give the one to "
        'scale and crop them to: size=(H, W) (--data.size "[H,W]")'
    )


def _labels(root: Path, files: Sequence[Path]) -> NDArray[np.str_] | None:
    parts = [file.relative_to(root).parts for file in files]
    beside = [file for file, part in zip(files, parts, strict=True) if len(part) == 1]
    if len(beside) == len(files):
        return None
    if beside:
        raise ValueError(
            f"{root} holds {len(beside):,} pictures beside its sub-folders ({beside[0].name}, for "
            f"one) and {len(files) - len(beside):,} in them, so that labels are not clear; move "
            "them, or give one sub-folder"
        )
    return np.array([part[0] for part in parts])


def _is_file_of(root: Path, file: Path) -> bool:
    """Whether this is a file of the folder.

    Raises:
        ValueError: it is a link that leads out of the folder, to a folder, or to nothing: what
            would be read, or left out, nobody has named.
    """
    if file.is_symlink() and not _is_hidden(file.relative_to(root)):
        target = file.resolve()
        leads_out = not target.is_relative_to(root.resolve())
        if leads_out or not target.is_file():
            how = "leads out of the folder" if leads_out else "is none to a file"
            raise ValueError(
                f"{file} is a link that {how} ({target}), and such links are not followed; copy "
                "what it names into the folder, or remove the link"
            )
    return file.is_file()


def _is_hidden(file: Path) -> bool:
    """Whether a file is a system's or an editor's own: thumbnails, macOS' shadows of files,
    waste.
    """
    return any(part.startswith(".") for part in file.parts)


@dataclass(frozen=True)
class Head:
    """What a picture says of itself before it is decoded.

    Args:
        is_grey: whether it has no colours.
        pixels: how many.
        is_deep: whether it has 16 bits.
    """

    is_grey: bool
    pixels: int
    is_deep: bool


class UnfitError(ValueError):
    """A picture that can be decoded, and would not be what it is."""


def _head(file: Path) -> Head:
    with _opened(file) as image:
        is_deep = image.mode.startswith("I")
        return Head(image.mode in GREY or is_deep, image.width * image.height, is_deep)


def _depth(root: Path, files: Sequence[Path], heads: Sequence[Head]) -> np.dtype[Any]:
    """The type of all pictures of a folder.

    Raises:
        ValueError: some have 8 bits and others 16.
    """
    first = {
        head.is_deep: file for file, head in zip(reversed(files), reversed(heads), strict=True)
    }
    if len(first) > 1:
        raise ValueError(
            f"{root} holds pictures of 8 bits ({first[False].name}, for one) and greys of 16 "
            f"({first[True].name}), whose scales differ; bring them to one"
        )
    return np.dtype(np.uint16 if True in first else np.uint8)


def _decoded(file: Path, is_grey: bool, size: tuple[int, ...] | None) -> Pixels:
    """One picture, (1, H, W) or (3, H, W)."""
    from PIL import Image, ImageOps

    with _opened(file) as image:
        seen = ImageOps.exif_transpose(image)
        if seen.mode.startswith("I"):
            return _deep(file, seen, size)[None]
        picture = _plain(seen).convert("L" if is_grey else "RGB")
        if size is not None:
            picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture)
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)


def _deep(file: Path, image: Image.Image, size: tuple[int, ...] | None) -> NDArray[np.uint16]:
    """A grey picture of 16 bits, (H, W)."""
    from PIL import Image, ImageOps

    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() >= DEEP:
        raise UnfitError(
            f"{file} holds values from {values.min()} to {values.max()}, and pictures have 8 or 16 "
            "bits; save an array (.npy)"
        )
    if size is not None:
        # as 8-bit pictures are cut off at 255, where scaling goes beyond what there was
        white = 2 ** max(8, int(values.max()).bit_length()) - 1
        exact = Image.fromarray(values.astype(np.float32))
        scaled = ImageOps.fit(exact, (size[1], size[0]), Image.Resampling.BICUBIC)
        values = np.asarray(scaled).round().clip(0, white)
    return values.astype(np.uint16)


def _plain(image: Image.Image) -> Image.Image:
    """A picture without transparency."""
    from PIL import Image

    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image


def _unfit(image: Any) -> str | None:
    """Why a picture that can be decoded would not be what it is; None where it would."""
    modes = [tile.args if isinstance(tile.args, str) else str(tile.args[0]) for tile in image.tile
             if tile.args]  # fmt: skip
    tags = image.tag_v2 if image.format == "TIFF" else {}
    tag, value = WHITE_IS_ZERO
    if not image.mode.startswith("I") and any(";16" in mode for mode in modes):
        return "has 16 bits a colour, of which 8 would be left; save 8 bits, or an array (.npy)"
    if image.mode == "F":
        return "holds floating-point values, which have no white; save an array (.npy)"
    if image.format == "TIFF" and image.n_frames > 1:
        return f"holds {image.n_frames} pages, of which one would be taken; save one a file"
    if image.mode.startswith("I") and tags.get(tag) == value:
        return "has 16 bits of which zero is white; save it with zero as black"
    return None


@contextmanager
def _as_pillow_warns() -> Iterator[None]:
    """Make an error of what pillow only warns of, pictures above its limit; of odd metadata nothing
    is said.

    Such settings hold for all threads, so they stand around their work.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            if reason := _unfit(image):
                raise UnfitError(f"{file} {reason}")
            yield image
    except UnfitError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{file} is too large a picture: {first_line(error).split(',')[0]}"
        ) from None
    except UnidentifiedImageError:
        raise ValueError(
            f"{file} cannot be decoded: it is no PNG, JPEG, WebP or TIFF picture"
        ) from None
    except (
        Exception
    ) as error:  # a decoder may raise anything on a damaged file: SyntaxError, struct.error, ...
        raise ValueError(
            f"{file} cannot be decoded: {first_line(error)}; repair or remove it"
        ) from None
