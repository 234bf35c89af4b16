"""Folders of pictures: PNG, JPEG and WebP, of one size or brought to one.

Pictures are taken in the sorted order of their paths, as they are meant to be seen: turned as their EXIF data say,
transparent ones on white, palettes and CMYK as colours, 16-bit greys rounded to 8 bits, and of several frames the
first. They stay grey, (1, H, W), only where all files are grey, and are (3, H, W) otherwise.

The policy for sizes: nothing is resized unasked. With a size (H, W), each picture is scaled (bicubic) until it covers
H x W, and the overhang is cut off equally on both sides: nothing is stretched or padded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lowerbound.dataset import Stored
from lowerbound.memory import check_fits
from lowerbound.messages import first_line
from lowerbound.shapes import as_shape

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")  # no other of pillow's decoders is tried, whatever a file pretends to be
GREY = ("1", "L", "LA")  # and those of 16 bits, whose names begin with I


def read(path: Path, size: Sequence[int] | None = None) -> Stored:
    """The pictures in a folder and below it; a picture's label is the sub-folder of the root that it lies in.

    Args:
        path: the folder. The names of its sub-folders are the labels; pictures that lie in the folder itself have
            none.
        size: (H, W), to which every picture is scaled and cropped; None takes pictures of one size as they are.

    Raises:
        ValueError: no pictures, one that cannot be decoded or is a decompression bomb, pictures of several sizes without
            ``size``, pictures both beside sub-folders and in them, or more of them than fit into memory.
    """
    wanted = None if size is None else as_shape(size, "size")
    if wanted is not None and len(wanted) != 2:
        raise ValueError(
            f"size is {wanted}: it must be a height and a width, as in size=(64, 64) (--data.size [64,64])"
        )
    everything = [file for file in sorted(path.rglob("*")) if file.is_file()]
    files = [f for f in everything if f.suffix.lower() in SUFFIXES and not _is_hidden(f.relative_to(path))]
    if not files:
        among = f" among its {len(everything):,} files" if everything else ", and no other files"
        raise ValueError(f"{path} holds no pictures ({', '.join(SUFFIXES)}){among}")
    y = _labels(path, files)
    heads = [_head(file) for file in files]
    is_grey = all(grey for grey, _ in heads)
    channels = 1 if is_grey else 3
    pixels = sum(count for _, count in heads) if wanted is None else len(files) * wanted[0] * wanted[1]
    check_fits(channels * pixels, str(path))
    first = _decoded(files[0], is_grey, wanted)
    x = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        picture = _decoded(file, is_grey, wanted)
        if picture.shape != first.shape:
            a, b = ("x".join(map(str, shape[1:])) for shape in (first.shape, picture.shape))
            raise ValueError(
                f"{path} holds pictures of several sizes ({files[0].name} is {a}, {file.name} is {b}); give the one to "
                'scale and crop them to: size=(H, W) (--data.size "[H,W]")'
            )
        x[i] = picture
    return Stored(x, y, levels=256, source=str(path))


def _labels(root: Path, files: Sequence[Path]) -> NDArray[np.str_] | None:
    parts = [file.relative_to(root).parts for file in files]
    beside = [file for file, part in zip(files, parts, strict=True) if len(part) == 1]
    if len(beside) == len(files):
        return None
    if beside:
        raise ValueError(
            f"{root} holds {len(beside):,} pictures beside its sub-folders ({beside[0].name}, for one) and "
            f"{len(files) - len(beside):,} in them, so that labels are not clear; move them, or give one sub-folder"
        )
    return np.array([part[0] for part in parts])


def _is_hidden(file: Path) -> bool:
    """Whether a file is a system's or an editor's own: thumbnails, macOS' shadows of files, waste."""
    return any(part.startswith(".") for part in file.parts)


def _head(file: Path) -> tuple[bool, int]:
    """Whether a picture is grey, and how many pixels it has, without decoding it."""
    with _opened(file) as image:
        return image.mode in GREY or image.mode.startswith("I"), image.width * image.height


def _decoded(file: Path, is_grey: bool, size: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """One picture, (1, H, W) or (3, H, W)."""
    with _opened(file) as image:
        picture = _plain(ImageOps.exif_transpose(image)).convert("L" if is_grey else "RGB")
        if size is not None:
            picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture)
    return pixels[None] if is_grey else pixels.transpose(2, 0, 1)


def _plain(image: Image.Image) -> Image.Image:
    """A picture of 8 bits without transparency."""
    if image.mode.startswith("I"):  # 16-bit grey, which convert would clip and not scale
        return Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which are of no use here
            # pillow only warns of pictures above its limit, and refuses those above twice the limit
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=FORMATS) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{file} is too large a picture: {first_line(error).split(',')[0]}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{file} cannot be decoded: it is no PNG, JPEG or WebP picture") from None
    except Exception as error:  # a decoder may raise anything on a damaged file: SyntaxError, struct.error, ...
        raise ValueError(f"{file} cannot be decoded: {first_line(error)}; repair or remove it") from None
