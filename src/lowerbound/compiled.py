"""A pass compiled by torch as one graph, forward and backward: what ``compile=True`` means.

Inductor fuses what stands between the matrix products, so that a batch is read once where the plain pass reads it a dozen
times, and nothing of Python is left in between. The noise comes from the same generator, drawn by the same calls, as in the
plain pass, so that the two differ by rounding alone, and a run can be resumed.

A graph is made for one size of batch. Batches of another size, the last of an epoch and those of validation, go through
the plain pass: it costs little there, and no graph is made a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.passes import Pass


class Compiled(nn.Module):
    """A pass of which training batches of one size go through a compiled graph.

    Args:
        plain: the pass.
        batch_size: that size.

    Raises:
        ValueError: at the first step, where model or objective cannot be put into one graph.
    """

    def __init__(self, plain: Pass, batch_size: int) -> None:
        super().__init__()
        self.plain, self.batch_size = plain, batch_size
        with validation(on=False):
            self.graph = torch.compile(
                plain.forward, fullgraph=True, dynamic=False, options={"fallback_random": True}
            )  # the noise of the plain pass

    def forward(self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int) -> Any:
        """As :meth:`Pass.forward`."""
        if not self.training or len(x) != self.batch_size:
            return self.plain(x, context, progress, examples)
        # a number would be written into the graph, and every step need another one
        moving = torch.tensor(progress, dtype=torch.float32)
        try:
            with validation(on=False):
                return self.graph(x, context, moving, examples)  # type: ignore[arg-type]  # to be computed with as a number
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(_why(error, self.plain)) from error


@contextmanager
def validation(on: bool) -> Iterator[None]:
    """Have distributions validate their arguments, or not, in a block, and as before after it.

    torch turns it off for all that the process does after its first compilation, and could not compile it.
    """
    before = Distribution._validate_args
    Distribution.set_default_validate_args(on)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def _why(error: Exception, of: Pass) -> str:
    """One line from many: what torch says, and the last place in the code of the parts."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', str(error))
    own = [place for place in places if f"torch{os.sep}" not in place[0]]
    where = f" (in {own[-1][2]}, {Path(own[-1][0]).name} line {own[-1][1]})" if own else ""
    # the first line says what, and where the compiler itself failed, only that
    told = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("backend=")]
    parts = ", ".join(type(part).__name__ for part in of.model.parts.values())
    return (
        f"{type(of.model).__name__} of {parts} under {type(of.objective).__name__} cannot be compiled: "
        f"{told[0] if told else type(error).__name__}{where}; leave compile off, which changes nothing but the time"
    )


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where there is no compiler.

    Raises:
        ValueError: what is missing, and what would work.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if not any(shutil.which(word) for word in compiler.split()[:1]):
        raise ValueError(
            f"compile needs a C++ compiler, and {compiler!r} is not there: install one (g++, or clang), name it in the "
            "variable CXX, or leave compile off"
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        raise ValueError("compile needs Triton on a GPU: install triton, or leave compile off")
    if device.type == "mps":
        raise ValueError("compile is not supported on mps; use device 'cpu', or leave compile off")
