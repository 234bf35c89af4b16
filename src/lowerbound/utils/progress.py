"""What a person sees of a long run: a live line on a terminal, one plain line an epoch elsewhere,
or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lowerbound.utils.messages import printable

if TYPE_CHECKING:
    from rich.progress import Progress


class Display:
    """Shows epochs as they pass; use it as a context manager.

    Args:
        epochs: how many there will be.
        steps: batches an epoch.
        shown: False shows nothing.
        done: epochs done already, by a run that is resumed.
    """

    def __init__(self, epochs: int, steps: int, shown: bool, done: int = 0) -> None:
        self.epochs, self.steps, self.shown, self.done = epochs, steps, shown, done
        from rich.console import Console  # help has nothing to show, and does not wait for it

        self.console = Console(stderr=True, highlight=False)
        self.live: Progress | None = None
        self.last = 0.0

    def __enter__(self) -> Display:
        if self.shown and self.console.is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            # two lines of text beside a short bar fit into the 80 columns of a plain terminal
            columns = (BarColumn(8), TextColumn("{task.percentage:3.0f} %"), TimeRemainingColumn())
            self.live = Progress(
                *columns, TextColumn("{task.description}"), console=self.console, transient=True
            )
            self.task = self.live.add_task(
                "starting", total=self.epochs * self.steps, completed=self.done * self.steps
            )
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def step(
        self, epoch: int, step: int, means: Callable[[], Mapping[str, float | None]], rate: float
    ) -> None:
        """One batch is done.

        Args:
            epoch: the epoch at work.
            step: its batches done.
            means: gives the epoch's means so far; asked for twice a second, since on a GPU it waits
                for the device.
            rate: examples a second.
        """
        if self.live and time.monotonic() - self.last > 0.5:
            self.last = time.monotonic()
            values = "  ".join(_values(means()))
            shown = f"epoch {epoch}/{self.epochs}  {rate:,.0f} examples/s\n{values}"
            self.live.update(
                self.task, completed=(epoch - 1) * self.steps + step, description=shown
            )

    def epoch(self, record: Mapping[str, Any]) -> None:
        """One epoch is done."""
        if self.shown:
            (self.live.console if self.live else self.console).print(
                epoch_line(record, self.epochs), soft_wrap=True
            )

    def say(self, text: str) -> None:
        """One line of news."""
        if self.shown:
            (self.live.console if self.live else self.console).print(
                text, soft_wrap=True, markup=False
            )


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and nothing elsewhere, for work of which it is known how much there is.

    Args:
        what: shown beside the bar.

    Returns:
        A function to call with (work done, work in all).
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(30),
        TextColumn("{task.percentage:3.0f} %"),
    )
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(escape(printable(what)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def epoch_line(record: Mapping[str, Any], epochs: int) -> str:
    """An epoch in one line.

    Example:
        >>> train = {"loss": 120.5, "elbo": -120.5, "rate": 20.25, "distortion": 100.25}
        >>> record = {
        ...     "epoch": 3,
        ...     "train": train,
        ...     "valid": None,
        ...     "examples_per_second": 12345.6,
        ...     "skipped_steps": 0,
        ... }
        >>> epoch_line(record, 10)
        'epoch 3/10  loss 120.50  elbo -120.50  rate 20.25  distortion 100.25  12,346 examples/s'
    """
    shown = _values(record["train"])
    if record["valid"]:
        shown += [
            f"valid {n} {v:.2f}" for n in ("elbo", "loss") if (v := record["valid"][n]) is not None
        ][:1]
    shown += [f"{record['examples_per_second']:,.0f} examples/s"]
    if record["skipped_steps"]:
        shown += [f"skipped {record['skipped_steps']} steps with non-finite gradients"]
    return "  ".join([f"epoch {record['epoch']}/{epochs}", *shown])


def _values(means: Mapping[str, float | None]) -> list[str]:
    return [f"{name} {value:.2f}" for name, value in means.items() if value is not None]
