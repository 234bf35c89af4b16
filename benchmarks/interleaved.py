"""Alternatives timed side by side: each in a process of its own, on the same cores, taking turns
round by round.

A machine's speed drifts by more than the differences of interest, so two alternatives are compared
by the ratio of their times *in the same round*. With r_i that ratio in round i of R, log r is
averaged and its 95 % interval is Student's:

    mean(log r) -+ t_{0.975, R - 1} sd(log r) / sqrt(R),   given as exp of it

All processes are started and warmed up before the first round that counts, and are idle, reading a
pipe, while another has its turn. The order within a round is drawn anew for every round.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROUNDS = 10
# glibc gives large blocks back to the kernel and takes them anew at every step, unless it is told
# not to
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


class Worker:
    """A process that answers questions, one line of JSON each.

    Args:
        name: as printed.
        command: the program and its arguments.
        threads: how many it may use; it is bound to as many cores, the same for all workers, where
            the system can do that.
        environment: variables beside those of this process.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        threads: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            [str(word) for word in bound_to_cores(threads) + list(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                **(environment or {}),
            },
        )

    def ask(self, question: str) -> dict[str, Any]:
        """The answer; RuntimeError with the end of what the process said where it died."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(question + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
            while line and not line.startswith("{"):  # a library that prints while it is imported
                line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} died at {question!r}:\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


def bound_to_cores(threads: int) -> list[str]:
    """What to put before a command so that it runs on the first cores that this process may use."""
    if not sys.platform.startswith("linux"):
        return []
    return ["taskset", "-c", ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))]


@dataclass(frozen=True)
class Ratio:
    """A paired ratio of times with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired(times: Sequence[float], others: Sequence[float]) -> Ratio:
    """times / others, round by round.

    Example:
        >>> str(paired([2.0, 4.0, 8.0], [1.0, 2.0, 4.0]))
        '2.00 [2.00, 2.00]'
    """
    from scipy.stats import t

    logs = [math.log(a / b) for a, b in zip(times, others, strict=True)]
    mean = statistics.fmean(logs)
    if len(logs) == 1:  # of one round there is no interval
        return Ratio(math.exp(mean), 0.0, math.inf)
    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def interleave(
    turns: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = 1
) -> dict[str, list[Any]]:
    """What each turn returned in each round, those for warming up left out; the order within a
    round is shuffled.
    """
    names, found, shuffled = list(turns), {name: [] for name in turns}, random.Random(0)
    for i in range(-warm_up, rounds):
        shuffled.shuffle(names)
        for name in names:
            print(
                f"\r\033[Kround {i + 1} of {rounds}: {name}" if sys.stderr.isatty() else "",
                end="",
                file=sys.stderr,
            )
            answer = turns[name]()
            if i >= 0:
                found[name].append(answer)
    print("\r\033[K" if sys.stderr.isatty() else "", end="", file=sys.stderr)
    return found


def conditions(threads: int, **also: object) -> str:
    """Machine, threads, versions and date, as every table is headed by."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("lowerbound", "torch", "numpy"))
    load = "unknown" if sys.platform == "win32" else f"{os.getloadavg()[0]:.1f}"
    now = datetime.datetime.now(datetime.UTC)
    lines = [
        f"{now:%Y-%m-%d %H:%M} UTC, {processor()}, {os.cpu_count()} cores, {threads} threads",
        f"Python {platform.python_version()}, {versions}; load of the machine at the beginning "
        f"{load}",
        *(f"{name.replace('_', ' ')}: {value}" for name, value in also.items()),
    ]
    return "\n".join(lines)


def processor() -> str:
    try:
        named = [
            line
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        return named[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns, the first to the left and all others to the right.

    Example:
        >>> print(table(["", "ms"], [["a", "1.5"], ["bcd", "10.0"]]))
               ms
        a     1.5
        bcd  10.0
    """
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def row(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0])] + [
            c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(map(row, lines))


def arguments(description: str | None, rounds: int = ROUNDS) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=rounds,
        help=f"rounds that count, {rounds} by default; 2 show that it runs",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=os.cpu_count(),
        help="threads, and cores that all are bound to",
    )
    return parser


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
