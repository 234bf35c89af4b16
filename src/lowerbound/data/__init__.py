"""Data sets: one card whatever the source.

Named sets are read from their canonical files; the user's own data are arrays in memory, .npy and
.npz files, tables as .csv and .parquet, or folders of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.dataset import Dataset, Split, Stored
from lowerbound.data.mapped import MappedArray, Memory
from lowerbound.data.names import check_distinct
from lowerbound.data.options import Binarize, Channels, Dtype, Missing, Options, Splits, plain
from lowerbound.data.preprocess import make_card
from lowerbound.data.sources import NAMED, OWN, applicable, read
from lowerbound.shapes import as_shape
from lowerbound.utils.modes import by_default

__all__ = ["NAMED", "OWN", "Dataset", "Split", "applicable", "from_arrays", "load"]


@by_default()
def load(
    source: str | Path,
    splits: Splits = "train_valid_test",
    binarize: Binarize | None = None,
    levels: int | Literal["none"] | None = None,
    seed: int = 0,
    array: str | None = None,
    labels: str | None = None,
    size: Sequence[int] | None = None,
    dequantize: bool = False,
    flip: bool = False,
    shift: int = 0,
    missing: Missing = "refuse",
    categorical: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    channels: Channels | None = None,
    classes: Sequence[str] | None = None,
    strip: Sequence[int] | None = None,
    factors: str | None = None,
    labelled: int | None = None,
    labelled_share: float | None = None,
    memory: Memory = "auto",
    dtype: Dtype = "auto",
) -> Dataset:
    """Load a data set by name, from a file of arrays or a table, or from a folder of pictures.

    Values are kept on the scale on which every likelihood can score them: 8-bit pixels and other
    grey levels as {0, 1/(L-1), ..., 1}, everything else as it is.

    Args:
        source: a name (digits, mnist, ...), or the path of a .npy or .npz file, examples first: (n,
            *X), of a .csv or .parquet table, a row an example, or of a folder of PNG, JPEG,
            WebP or TIFF pictures, a sub-folder a label.
        splits: "train_valid_test" is the published split, or 80/10/10 by the seed where there is
            none; "train_test" trains on all that is not test, without validation; "all" is one
            split named all, in the order of the file.
        binarize: "dynamic" draws each grey value anew as a probability at every presentation in
            training (validation and test once, by the seed); "threshold" cuts at one half; None
            leaves grey values grey.
        levels: number of grey levels of integer data, whose values are 0..levels-1; "none" takes
            integers as they are. None means 2 for values 0 and 1, 256 for uint8, "none" for other
            integers, and is written down as what it meant.
        seed: of the split and of the random transforms.
        array: which array of a .npz holds the examples; "x" or the only one by default, or "imgs",
            as in dSprites.
        labels: which array of a .npz holds the labels ("y" by default, where there is one), or
            which column of a table, by its name; the column is then no part of x.
        size: (H, W): scale each picture of a folder until it covers H x W, and cut off the overhang
            equally on both sides. None takes pictures of one size as they are, and refuses several.
        dequantize: add uniform noise to levels 0..L-1, x = (v + u) / L in [0, 1), so that a density
            can be fitted to them and measured in bits per dimension; drawn anew at every
            presentation in training, once elsewhere.
        flip: mirror each picture left to right with probability 1/2, in training only.
        shift: move each picture by up to so many pixels down or up and right or left, in training
            only; what comes in at an edge repeats the edge.
        missing: what to do with NaN and, in tables, empty cells: "refuse" them, or "marginalise":
            leave them out of every density, by a mask on the card.
        categorical: columns of a table that hold classes, which may be text, by their names. The
            labels, sorted, become the levels {0, 1/(L-1), ..., 1}; "size=small|large" gives their
            order. A column of two becomes 0 and 1.
        columns: which columns of a table are x, by their names, in this order, whatever the file's
            is; None takes all that are neither labels nor ignored, and writes them down. A file
            without names whose columns are as many has these names then.
        ignore: columns of a table that are no part of x, by their names, and may hold anything.
        channels: "last" moves the last axis of each example before the others, (H, W, C) -> (C, H,
            W), as what acts on pictures needs it; "first" says that it is there. None takes axes as
            they are, and has what acts on pictures refused where they look like (H, W, C).
        classes: names of the classes of labels, in order; None takes those that there are, sorted,
            and writes them down.
        strip: [first, last]: what a model may be conditioned on is these pixel columns of each
            picture, counted from 0, in the place of its label, so that it learns to complete the
            picture.
        factors: which array of a .npz holds what the examples were made from, (n, F), to score
            representations by; "factors" or, as in dSprites, "latents_classes" by default, where
            there is one.
        labelled: how many training examples keep their label, as many of each class, drawn by the
            seed; the others are unlabelled, for models that learn from few labels (M2). None keeps
            all.
        labelled_share: of the examples of each training batch, how many are labelled: those come
            several times in an epoch, others not in each. What training reports is of these
            batches. None shows every example once an epoch.
        memory: "map" leaves the values of a .npy, or of pictures decoded before, in their file,
            which may be larger than memory; training then shuffles by windows of 256 MiB. "load"
            reads them. "auto" maps a file that is larger than a quarter of the memory. That values
            were mapped is written down, so that a run is resumed in the same order.
        dtype: of x. "auto" takes float32, or float64 where float32 would change a column: whole
            numbers beyond 2^24, or values far from zero for their spread
            (:mod:`lowerbound.data.precision`). "float64" takes that in any case. That it was needed
            is written down, so that another file is read in the same precision.

    Returns:
        The card with its splits.

    Raises:
        ValueError: an unknown name, a file that is missing, truncated, of a wrong checksum, holding
            objects or text or larger than memory, a picture that cannot be decoded, values that are
            not finite, labels of another length, too few examples to split, or an option that does
            not suit the data.
        OSError: a file cannot be read, or a download failed.

    Example:
        >>> import lowerbound as lb
        >>> print(lb.data.load("digits"))
        digits: 1,437/180/180 train/valid/test, 1x8x8, on the 17 levels {0, 1/16, ..., 1}
        >>> print(lb.data.load("digits", splits="train_test", binarize="threshold"))
        digits: 1,617/180 train/test, 1x8x8, on {0, 1}
    """
    options = Options(
        splits=splits,
        binarize=binarize,
        levels=levels,
        seed=seed,
        array=array,
        labels=labels,
        factors=factors,
        size=None if size is None else as_shape(plain(size), "size"),
        missing=missing,
        categorical=plain(categorical) or None,
        columns=plain(columns) or None,
        ignore=plain(ignore) or None,
        channels=channels,
        memory=memory,
        dequantize=dequantize,
        flip=flip,
        shift=shift,
        classes=classes,
        strip=strip,
        labelled=labelled,
        labelled_share=labelled_share,
        dtype=dtype,
    )
    stored = read(source, options)
    moves = "strip" if strip is not None else "channels" if channels == "last" else None
    if moves is not None and isinstance(stored.x, MappedArray):
        if memory == "map":
            raise ValueError(
                f"{moves} is taken of all pictures, which have to be in memory for it: leave out "
                "memory='map'"
            )
        stored = read(source, replace(options, memory="load"))
    path = Path(source).expanduser()
    name = str(source) if str(source) in NAMED else str(path.resolve())
    return make_card(stored, name, options)


@by_default()
def from_arrays(
    x: NDArray[Any] | torch.Tensor,
    y: NDArray[Any] | torch.Tensor | None = None,
    splits: Splits = "train_valid_test",
    binarize: Binarize | None = None,
    levels: int | Literal["none"] | None = None,
    seed: int = 0,
    dequantize: bool = False,
    flip: bool = False,
    shift: int = 0,
    missing: Missing = "refuse",
    mask: NDArray[Any] | torch.Tensor | None = None,
    columns: Sequence[str] | None = None,
    channels: Channels | None = None,
    classes: Sequence[str] | None = None,
    strip: Sequence[int] | None = None,
    factors: NDArray[Any] | torch.Tensor | None = None,
    labelled: int | None = None,
    labelled_share: float | None = None,
    dtype: Dtype = "auto",
) -> Dataset:
    """A data set from arrays in memory; the arguments are those of :func:`load`.

    Args:
        x: examples, (n, *X).
        y: labels, (n,), numbers or text, also as an array of Python objects; or None.
        splits: see :func:`load`.
        binarize: see :func:`load`.
        levels: see :func:`load`.
        seed: see :func:`load`.
        dequantize: see :func:`load`.
        flip: see :func:`load`.
        shift: see :func:`load`.
        missing: see :func:`load`.
        mask: True (1) where an entry of x is observed and False (0) where it is missing, (n, *X);
            what stands at missing entries plays no part. None: all are observed, but for NaN where
            missing is "marginalise".
        columns: the names of the columns of x (n, d), as in ``columns=frame.columns``; a model that
            is trained on them finds them again by name.
        channels: see :func:`load`.
        classes: see :func:`load`.
        strip: see :func:`load`.
        factors: what each example was made from, (n, F), numbers, to score representations by
            (``lb.scores``), or None.
        labelled: see :func:`load`.
        labelled_share: see :func:`load`.
        dtype: see :func:`load`.

    Raises:
        ValueError: as :func:`load`.
        TypeError: values that are no numbers.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> print(from_arrays(rng.normal(size=(50, 3))))
        data from memory: 40/5/5 train/valid/test, 3, on the real line
        >>> print(from_arrays(np.array([[1.5, np.nan]] * 10), missing="marginalise"))
        data from memory: 8/1/1 train/valid/test, 2, on the real line, 50.0% of the entries missing
    """
    options = Options(
        splits=splits,
        binarize=binarize,
        levels=levels,
        seed=seed,
        missing=missing,
        dequantize=dequantize,
        flip=flip,
        shift=shift,
        channels=channels,
        classes=classes,
        strip=strip,
        labelled=labelled,
        labelled_share=labelled_share,
        dtype=dtype,
    )
    values, labels, observed, made_from = (_array(v) for v in (x, y, mask, factors))
    assert values is not None  # x is no option
    names = None if columns is None else tuple(map(str, columns))
    if names is not None and (values.ndim != 2 or values.shape[1] != len(names)):
        raise ValueError(f"there are {len(names)} names of columns for x of shape {values.shape}")
    check_distinct(names or (), "x")
    stored = Stored(values, labels, observed, columns=names, factors=made_from)
    return make_card(stored, None, options)


def _array(values: NDArray[Any] | torch.Tensor | None) -> NDArray[Any] | None:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    return None if values is None else np.asarray(values)
