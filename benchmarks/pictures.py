"""Folders of pictures: decoded by one processor, by all of them, and read again from the cache.

    python benchmarks/pictures.py

JPEG files of smooth noise are made in a temporary folder; a turn is one call of lb.data.load in a
process of its own, in seconds as that process measures them, imports left out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from interleaved import arguments, bound_to_cores, conditions, interleave, paired, positive, table
from PIL import Image

LOAD = """
import sys, time
import lowerbound as lb
lb.data.load(sys.argv[2], splits="all")  # one picture: what is imported at first use is left out
began = time.perf_counter()
lb.data.load(sys.argv[1])
print(time.perf_counter() - began)
"""


def turn(folder: Path, cores: int, caches: Path, is_new: bool) -> Callable[[], float]:
    def run() -> float:
        cache = tempfile.mkdtemp(dir=caches) if is_new else str(caches / "kept")
        command = [
            *bound_to_cores(cores),
            sys.executable,
            "-c",
            LOAD,
            str(folder),
            str(folder.parent / "one"),
        ]
        environment = {**os.environ, "LOWERBOUND_CACHE": cache}
        return float(
            subprocess.run(
                command, env=environment, check=True, stdout=subprocess.PIPE, text=True
            ).stdout
        )

    return run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=positive, default=3000)
    parser.add_argument("--side", type=positive, default=256, help="pixels")
    asked = parser.parse_args()
    every = len(os.sched_getaffinity(0))
    print(conditions(every, rounds=asked.rounds, pictures=asked.pictures, side=asked.side))
    with tempfile.TemporaryDirectory() as name:
        folder, caches = Path(name, "pictures"), Path(name, "caches")
        folder.mkdir()
        caches.mkdir()
        (Path(name) / "one").mkdir()
        Image.new("L", (8, 8)).save(Path(name, "one", "1.png"))
        generator = np.random.default_rng(0)
        for i in range(asked.pictures):
            coarse = Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((asked.side, asked.side), Image.Resampling.BICUBIC).save(
                folder / f"{i:06}.jpg", quality=90
            )
        turns = {
            "decoded, 1 core": turn(folder, 1, caches, True),
            f"decoded, {every} cores": turn(folder, every, caches, True),
            "from the cache, 1 core": turn(folder, 1, caches, False),
        }
        found = interleave(turns, asked.rounds)
    first = found["decoded, 1 core"]
    rows = [
        [title, f"{statistics.median(own):.2f}", str(paired(own, first))]
        for title, own in found.items()
    ]
    print(table(["", "seconds", "to one core"], rows))


if __name__ == "__main__":
    main()
