"""How long until one can begin: `import lowerbound` against `import torch`, and
`lowerbound --help`.

    python benchmarks/start_up.py

`import lowerbound` loads names only; "all that training needs" is what the first call of lb.fit has
to load.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from interleaved import arguments, bound_to_cores, conditions, interleave, paired, table

PROGRAMS = {
    "python": "pass",
    "import torch": "import torch",
    "import lowerbound": "import lowerbound",
    "all that models need": (
        "import lowerbound as lb; lb.VAE, lb.posteriors, lb.likelihoods, lb.priors, lb.objectives"
    ),
    "all that training needs": (
        "import lowerbound as lb; lb.fit, lb.evaluate; import lightning_fabric"
    ),
    "lowerbound --help": "from lowerbound.cli import main; main(['--help'])",
    "lowerbound train --help": "from lowerbound.cli import main; main(['train', '--help'])",
}


def turn(program: str, threads: int) -> Callable[[], float]:
    def run() -> float:
        began = time.perf_counter()
        subprocess.run(
            [*bound_to_cores(threads), sys.executable, "-c", program],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    return run


def main() -> None:
    asked = arguments(__doc__).parse_args()
    print(conditions(asked.threads, rounds=asked.rounds))
    found = interleave(
        {name: turn(program, asked.threads) for name, program in PROGRAMS.items()}, asked.rounds
    )
    torch = found["import torch"]
    rows = [
        [name, f"{statistics.median(of):.3f}", str(paired(of, torch))] for name, of in found.items()
    ]
    print(table(["", "seconds", "to import torch"], rows))
    print(
        "should be: import lowerbound at most 1.15 of import torch; lowerbound --help at most 0.3 s"
    )


if __name__ == "__main__":
    main()
