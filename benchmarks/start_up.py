"""The first seconds: how long until a command answers, a run folder is there, the first epoch is
told, and a small job is done.

    python benchmarks/start_up.py
    python benchmarks/start_up.py --only import train --rounds 2

Each turn is a fresh process, and all take turns with `import torch` alone, below which nothing that
computes can come. Seconds are those of the clock; processor time is that of the process, user and
system, and says the same on a machine that does other work. Of a training there are the moments at
which its run folder holds config.yaml, its first epoch is printed, and it ends with its report.

"a fit of 20 x 3" and its like are calls in a process in which the same call has been made before:
what a small job costs beside its arithmetic. Their seconds and processor time are of one call.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from interleaved import arguments, bound_to_cores, conditions, interleave, paired, table

LOWERBOUND = (sys.executable, "-m", "lowerbound")
EPOCHS = 3  # enough for a first one, few enough for the end to be seconds away
REPEATS = 10  # calls in a warm process, whose mean is taken

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "python": (sys.executable, "-c", "pass"),
    "import torch": (sys.executable, "-c", "import torch"),
    "import lowerbound": (sys.executable, "-c", "import lowerbound"),
    "all that models need": (
        sys.executable,
        "-c",
        "import lowerbound as lb; lb.VAE, lb.posteriors, lb.likelihoods, lb.priors, lb.objectives",
    ),
    "all that training needs": (
        sys.executable,
        "-c",
        "import lowerbound as lb; lb.fit, lb.evaluate",
    ),
    "lowerbound --help": (*LOWERBOUND, "--help"),
    "lowerbound data": (*LOWERBOUND, "data"),
    "lowerbound recipes": (*LOWERBOUND, "recipes"),
    "lowerbound train --help": (*LOWERBOUND, "train", "--help"),
}

WARM = """
import sys, time
import numpy as np
import lowerbound as lb

data = lb.data.from_arrays(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32))
model = lb.VAE(
    prior=lb.priors.StandardNormal((2,)),
    posterior=lb.posteriors.DiagonalNormal((3,), (2,)),
    likelihood=lb.likelihoods.Normal((2,), (3,)),
)

def call():
    if sys.argv[1] == "fit":
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    else:
        lb.evaluate(model, data)

call()
began, busy = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[2])):
    call()
print(time.perf_counter() - began, time.process_time() - busy)
"""


@dataclass(frozen=True)
class Took:
    """How long something took.

    Args:
        seconds: of the clock.
        busy: of processors; None where it was not seen alone, as the first part of a process.
    """

    seconds: float
    busy: float | None


def environment(threads: int) -> dict[str, str]:
    """That of every process: an installed package, whose modules were compiled to bytecode before
    (in the round for warming up).
    """
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONWARNINGS": "ignore",
    }


def run(
    command: tuple[str, ...], threads: int, watch: Callable[[subprocess.Popen[str]], None]
) -> Took:
    """A command from its start to its end; ``watch`` is called in between."""
    before, began = processor_seconds(), time.perf_counter()
    process = subprocess.Popen(
        [*bound_to_cores(threads), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(threads),
    )
    watch(process)
    _, errors = process.communicate()
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors[-2000:]}")
    return Took(seconds, processor_seconds() - before)


def processor_seconds() -> float:
    """What all processes that this one has started and seen end have used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def plain(command: tuple[str, ...], threads: int) -> dict[str, Took]:
    return {"": run(command, threads, lambda process: None)}


def training(threads: int) -> dict[str, Took]:
    """`lowerbound train digits` into a new folder: when the folder is there, the first epoch told,
    and all done.
    """
    seen: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = (*LOWERBOUND, "train", "digits", "--epochs", str(EPOCHS), "--out", str(out))
        began = time.perf_counter()

        def watch(process: subprocess.Popen[str]) -> None:
            def look() -> None:
                while not (out / "config.yaml").exists() and process.poll() is None:
                    time.sleep(0.005)
                seen["run folder"] = time.perf_counter() - began

            looking = threading.Thread(target=look)
            looking.start()
            assert process.stderr
            for line in process.stderr:
                if line.startswith("epoch 1/"):
                    seen["first epoch"] = time.perf_counter() - began
                    break
            looking.join()

        whole = run(command, threads, watch)
    return {**{name: Took(seconds, None) for name, seconds in seen.items()}, "end": whole}


def trained(threads: int, folder: Path) -> Path:
    """A run to score by, and five examples beside it."""
    import numpy as np

    pictures = np.random.default_rng(0).integers(0, 17, (5, 1, 8, 8), dtype=np.uint8)
    np.save(folder / "five.npy", pictures)
    command = (*LOWERBOUND, "train", "digits", "--epochs", "1", "--no-report", "--out")
    plain((*command, str(folder / "run")), threads)
    return folder


def warm(call: str, threads: int) -> dict[str, Took]:
    """One call where the same has been made before."""
    command = [*bound_to_cores(threads), sys.executable, "-c", WARM, call, str(REPEATS)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment(threads)
    )
    seconds, busy = map(float, done.stdout.split())
    return {"": Took(seconds / REPEATS, busy / REPEATS)}


def turns(threads: int, folder: Path) -> dict[str, Callable[[], dict[str, Took]]]:
    """What can be measured, by name."""
    scoring = (*LOWERBOUND, "score", str(folder / "run"), str(folder / "five.npy"))
    return {
        **{
            name: lambda command=command: plain(command, threads)
            for name, command in PROGRAMS.items()
        },
        "lowerbound train digits": lambda: training(threads),
        "lowerbound score, 5 rows": lambda: plain(
            (*scoring, "--out", str(folder / "scores.npy")), threads
        ),
        "a fit of 20 x 3, warm": lambda: warm("fit", threads),
        "an evaluate of 20 x 3, warm": lambda: warm("evaluate", threads),
    }


def rows(measured: Mapping[str, list[dict[str, Took]]]) -> list[list[str]]:
    """A line each: median seconds and processor seconds, and the paired ratios of both to those of
    `import torch`.
    """
    torch = [took[""] for took in measured["import torch"]]
    lines = []
    for name, rounds in measured.items():
        for part in rounds[0]:
            of = [took[part] for took in rounds]
            busy = [took.busy for took in of if took.busy is not None]
            ratio = paired([took.seconds for took in of], [took.seconds for took in torch])
            lines.append(
                [
                    f"{name}: {part}" if part else name,
                    f"{statistics.median(took.seconds for took in of):.3f}",
                    str(ratio),
                    f"{statistics.median(busy):.3f}" if busy else "",
                    str(paired(busy, [took.busy or 0.0 for took in torch])) if busy else "",
                ]
            )
    return lines


def options() -> argparse.ArgumentParser:
    parser = arguments(__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="what has one of these words in its name"
    )
    return parser


def main() -> None:
    chosen = options().parse_args()
    print(conditions(chosen.threads, rounds=chosen.rounds))
    with tempfile.TemporaryDirectory() as name:
        every = turns(chosen.threads, Path(name))
        words = chosen.only or [""]
        asked = {
            name: turn
            for name, turn in every.items()
            if name == "import torch" or any(word in name for word in words)
        }
        if any("score" in name for name in asked):
            trained(chosen.threads, Path(name))
        measured = interleave(asked, chosen.rounds)
    head = ["", "seconds", "to import torch", "processor", "to import torch"]
    print(table(head, rows(measured)))
    print(
        "should be: import lowerbound, --help, data and recipes at most a quarter of import torch"
    )


if __name__ == "__main__":
    main()
