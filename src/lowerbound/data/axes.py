"""Which axis of an example is what.

A picture is (C, H, W), or (H, W): what acts on pictures, a convolution, a flip or a shift, acts on
the last two axes and takes those before them for channels. Pictures with their channels last,
volumes and signals would be worked on along the wrong axes, and give numbers all the same.
"""

from __future__ import annotations

from lowerbound.shapes import Shape

MOST_CHANNELS = 4  # red, green, blue and transparency: what a last axis of colours can hold


def has_channels_last(shape: Shape) -> bool:
    """Whether examples look like pictures (H, W, C).

    Example:
        >>> (
        ...     has_channels_last((28, 28, 3)),
        ...     has_channels_last((3, 28, 28)),
        ...     has_channels_last((8, 4)),
        ... )
        (True, False, False)
    """
    return len(shape) == 3 and shape[-1] <= MOST_CHANNELS < min(shape[:2])


def check_axes(shape: Shape, channels: str | None, actor: str, where: str) -> None:
    """Refuse to let something that acts on pictures act on other axes than height and width.

    Args:
        shape: of an example.
        channels: the option of :func:`lowerbound.data.load`: where the user says they are.
        actor: what is to act, as in "a convolution".
        where: what the data are called.

    Raises:
        ValueError: which axes it would take for what, and what to do.

    Example:
        >>> check_axes((1, 28, 28), None, "a convolution", "x.npy")
        >>> check_axes((28, 28, 3), "first", "a convolution", "x.npy")
    """
    if has_channels_last(shape) and channels is None:
        height, width, count = shape
        raise ValueError(
            f"{where} has examples of shape {shape}, which look like pictures with their channels "
            f"last, and {actor} takes (C, H, W): it would act along the axes {width} and {count}; "
            "have the axis moved by channels='last' (--data.channels last), or say that "
            f"{height} is the number of channels by channels='first'"
        )
    if len(shape) == 2 and shape[0] != shape[1]:
        raise ValueError(
            f"{where} has examples of shape {shape}, which {actor} takes for a picture {shape[0]} "
            f"high and {shape[1]} wide; if it is one, say so by an axis for its channel "
            "(np.save(path, x[:, None])); for signals (C, T), whose first axis are channels, use "
            "the network MLP"
        )
    if len(shape) > 3:
        before = " x ".join(map(str, shape[:-2]))
        size = ", ".join(map(str, shape[-2:]))
        raise ValueError(
            f"{where} has examples of shape {shape}, and {actor} acts on the last two axes alone "
            f"and takes those before them ({before}) for channels; for volumes use an MLP, "
            f"or say that slices are channels: np.save(path, x.reshape(len(x), -1, {size}))"
        )
