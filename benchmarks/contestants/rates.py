"""What the machine can do at the moment: the rates of a large matrix product and of copying, in
rounds as the contestants'.

    python benchmarks/contestants/rates.py problem.npz '{}'

"floor" tells what one step of the problem asks for: the floating-point operations of its forward
and backward pass, counted by torch, and the bytes that Adam must move, seven times those of the
parameters in float32: it reads the parameters, their gradients and two moments, and writes all but
the gradients.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from channel import serve
from handwritten import loss_of
from plain import networks, parameters, set_weights, x_and_eps
from problem import load
from torch.utils.flop_counter import FlopCounterMode

SIZE = 2048  # of the square matrices: beyond it the rate grows no more
COPIED = 2**26  # float32 values, 256 MiB: far beyond the caches
REPEATS = 3


def seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(file: str) -> None:
    given = load(file)
    matrices = {
        name: torch.randn(SIZE, SIZE, dtype=getattr(torch, name))
        for name in ("float32", "bfloat16")
    }
    source, target = torch.ones(COPIED), torch.empty(COPIED)
    found: dict[str, float] = {}

    def one_round() -> None:
        for name, matrix in matrices.items():
            out = torch.empty_like(matrix)
            found[name] = 2 * SIZE**3 / seconds(lambda a=matrix, out=out: torch.mm(a, a, out=out))
        found["copy"] = 2 * COPIED * 4 / seconds(lambda: target.copy_(source))  # read and written

    def floor() -> dict[str, float]:
        encoder, decoder = networks(given.problem)
        set_weights(given, encoder, decoder)
        with FlopCounterMode(display=False) as counter:
            loss_of(encoder, decoder, *x_and_eps(given)).backward()
        count = sum(p.numel() for p in parameters(encoder, decoder))
        return {"flops": counter.get_total_flops(), "bytes": 7 * 4 * count}

    serve(one_round, {"rates": lambda: found, "floor": floor})


if __name__ == "__main__":
    main(sys.argv[1], **json.loads(sys.argv[2]))
