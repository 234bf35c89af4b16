"""Training from a file larger than memory: does it complete within a limit, and how fast against
data in memory?

    python benchmarks/large_file.py --folder /a/disk/with/room

`lowerbound train` makes one epoch of a small model on a .npy of 8 GiB that is left in its file, and
on a part of the same pictures in memory, before and after; the rates are those that the runs
themselves write down. On a machine that does other work besides, look at the processor's time for
each example, of the epoch with its validation, and the time asleep, which is that of waiting for
the disk and not for a processor (the kernel's schedstat).

Both kinds of memory that a limit of 2 GiB would count are looked at. Anonymous memory, which cannot
be taken back, is limited by the kernel for the process (RLIMIT_DATA: private writable mappings,
touched or not, which is more than RssAnon), so that a process that needs more dies; its peak is
looked at 20 times a second. Pages of the file can be taken back at any time; so that none are left
from the reading before, the file is dropped from the page cache as training begins. Where control
groups can be had, --prefix puts a command before each run that limits it: --prefix "systemd-run
--scope -p MemoryMax=2G".

The file is made in --folder and removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from interleaved import conditions, table

SHAPE = (3, 64, 64)
GIB = 2**30
MODEL = (
    "--latent 8 --posterior.network.hidden [32] --likelihood "
    "Normal --likelihood.network.hidden [32] --batch-size 500"
)
COLUMNS = [
    "",
    "starts in",
    "examples/s",
    "CPU ms/example",
    "asleep",
    "both, to memory",
    "most anonymous",
    "of the file",
    "ends",
]


@dataclass
class Found:
    """What one run did."""

    starts: float
    rate: float
    cpu: float
    asleep: float
    anonymous: int
    of_file: int
    code: int


def write(path: Path, rows: int, dtype: str) -> None:
    """So many pictures of blocks of grey with noise, in pieces; a shorter file is the beginning of
    a longer one.
    """
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *SHAPE)}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, rows, 1000):
            generator = np.random.default_rng(start)
            coarse = generator.integers(0, 200, (1000, 3, 8, 8), dtype=np.uint8)
            x = coarse[: rows - start].repeat(8, 2).repeat(8, 3)
            x += generator.integers(0, 56, (1, *SHAPE), dtype=np.uint8)
            stream.write((x if dtype == "uint8" else x / np.float32(255)).data)
        stream.flush()
        os.fsync(stream.fileno())


def forget(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def held(pid: int, name: str) -> int:
    """Of /proc/PID/status, in bytes."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


def clocks(pid: int) -> tuple[float, float]:
    """Seconds that a process's first thread was on a processor, and those that it was asleep: it
    waited for the disk.
    """
    ran, queued, _ = map(int, Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split())
    return ran / 1e9, time.monotonic() - (ran + queued) / 1e9


def run(
    path: Path, memory: str, out: Path, limit: float | None, prefix: str, threads: int
) -> Found:
    command = [*shlex.split(prefix), sys.executable, "-m", "lowerbound", "train", str(path)]
    command += [
        "--epochs",
        "1",
        "--samples",
        "1",
        "--quiet",
        "--out",
        str(out),
        "--data.memory",
        memory,
    ]
    forget(path)
    began = time.monotonic()
    process = subprocess.Popen(
        [*command, *shlex.split(MODEL)],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        preexec_fn=None  # noqa: PLW1509  this program has no threads
        if limit is None
        else lambda: resource.setrlimit(resource.RLIMIT_DATA, (int(limit * GIB), int(limit * GIB))),
    )
    starts, anonymous, of_file = 0.0, 0, 0
    marks: list[tuple[float, float]] = []
    metrics = out / "metrics.jsonl"
    while process.poll() is None:
        anonymous = max(anonymous, held(process.pid, "RssAnon"))
        of_file = max(of_file, held(process.pid, "RssFile"))
        if not starts and (out / "checkpoint" / "state.json").exists():
            starts = time.monotonic() - began
            forget(path)
            marks.append(clocks(process.pid))
        if len(marks) == 1 and metrics.exists() and metrics.stat().st_size:
            marks.append(clocks(process.pid))
        time.sleep(0.05)
    rate = (
        json.loads(metrics.read_text().splitlines()[0])["examples_per_second"]
        if metrics.exists()
        else 0.0
    )
    # those that are trained on, and those for validation
    examples = 0.9 * np.load(path, mmap_mode="r").shape[0]
    cpu, asleep = (
        (1000 * (b - a) / examples for a, b in zip(*marks, strict=True))
        if marks[1:]
        else (0.0, 0.0)
    )
    return Found(starts, rate, cpu, asleep, anonymous, of_file, process.returncode)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=8.0, help="size of the file")
    parser.add_argument(
        "--limit", type=float, default=2.0, help="GiB of anonymous memory that a process may have"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is made"
    )
    parser.add_argument("--prefix", default="", help="put before each run")
    parser.add_argument(
        "--part", type=int, default=16, help="one in so many of the pictures are those in memory"
    )
    parser.add_argument("--dtype", choices=("uint8", "float32"), default="uint8")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    free = shutil.disk_usage(asked.folder).free
    if free < 1.2 * asked.gib * GIB:
        sys.exit(
            f"{asked.folder} has {free / GIB:.1f} GiB free, and {1.2 * asked.gib:.1f} are needed; "
            "name another --folder"
        )
    print(conditions(asked.threads))
    rows = int(asked.gib * GIB / (math.prod(SHAPE) * np.dtype(asked.dtype).itemsize))
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        large, small = folder / "large.npy", folder / "small.npy"
        write(large, rows, asked.dtype)
        write(small, rows // asked.part, asked.dtype)
        found = {}
        for title, path, memory in (
            ("in memory, before", small, "load"),
            ("in its file", large, "map"),
            ("in memory, after", small, "load"),
        ):
            limit = asked.limit if memory == "map" else None
            found[title] = run(
                path, memory, folder / title.replace(" ", "-"), limit, asked.prefix, asked.threads
            )
    in_memory = (
        sum(
            found[name].cpu + found[name].asleep
            for name in ("in memory, before", "in memory, after")
        )
        / 2
    )
    lines = [
        [
            title,
            f"{own.starts:.0f} s",
            f"{own.rate:,.0f}",
            f"{own.cpu:.3f}",
            f"{own.asleep:.3f}",
            f"{(own.cpu + own.asleep) / in_memory:.2f}" if in_memory else "-",
            f"{own.anonymous / GIB:.2f} GiB",
            f"{own.of_file / GIB:.2f} GiB",
            "whole" if own.code == 0 else f"with code {own.code}",
        ]
        for title, own in found.items()
    ]
    print(
        f"{rows:,} pictures of {'x'.join(map(str, SHAPE))}, {asked.dtype}, {asked.gib:g} GiB; "
        f"lowerbound train {MODEL}"
    )
    print(table(COLUMNS, lines))
    print(
        f"should be: ends whole with at most {asked.limit:g} GiB, at least 0.8 of the rate in "
        "memory, or 1.25 of its time"
    )


if __name__ == "__main__":
    main()
