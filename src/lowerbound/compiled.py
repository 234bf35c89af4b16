"""What ``compile=True`` means: a training step as one graph, or, where others take part in it, its pass as one.

Inductor fuses what stands between the matrix products, so that a batch is read once where the plain pass reads it a dozen
times, and nothing of Python is left in between: draw, objective, gradients, clipping and the optimiser's update. The noise
comes from the same generator, drawn by the same calls, as in the plain pass, so that the two differ by rounding alone, and
a run can be resumed. Several processes average their gradients before the update, and in 16-bit training a scaler decides
about it: there the pass, forward and backward, is the graph, as it is for a torch that cannot trace gradients yet.

A graph is made for one size of batch. Batches of another size, the last of an epoch and those of validation, go through
the plain pass: it costs little there, and no graph is made a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.optimizers import adam_update, begun, orthogonal_update
from lowerbound.passes import Pass, Passed, check_gradients, not_finite

SMALL = 1e-6  # added to a norm, as torch's clip_grad_norm_ does
TRACES_GRADIENTS = torch.__version__ >= "2.13"  # torch.autograd.grad within a graph


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


class CompiledStep:
    """A training step as one graph.

    Args:
        plain: the pass.
        optimizer: Adam or Muon, whose state the graph changes, so that it is saved and resumed as ever.
        groups: parameters whose gradients are clipped together.
        clip: the largest norm of those of a group; None leaves them.
        device: of the parameters.

    Raises:
        ValueError: at the first step, where model or objective cannot be put into one graph, or a parameter receives no
            gradient.
    """

    def __init__(
        self,
        plain: Pass,
        optimizer: torch.optim.Adam,
        groups: Sequence[Sequence[nn.Parameter]],
        clip: float | None,
        device: torch.device,
    ) -> None:
        self.plain, self.optimizer, self.clip = plain, optimizer, clip
        self.updates = [_Update(optimizer, i) for i in range(len(optimizer.param_groups))]
        self.trained = [p for update in self.updates for p in update.parameters]
        places = {id(p): i for i, p in enumerate(self.trained)}
        self.clipped_together = [[places[id(p)] for p in group] for group in groups]
        # numbers would be written into the graph, and every step need another one; as tensors nobody waits for them
        self.progress = torch.zeros((), device=device)
        self.is_begun = False
        # the noise of the plain pass; on a GPU all kernels of a step are launched as one
        options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": device.type == "cuda"}
        with validation(on=False):
            self.graph = torch.compile(self.step, fullgraph=True, dynamic=False, options=options)

    def __call__(self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int) -> Passed:
        """As :meth:`Pass.forward`, and the update. Of what is logged there are sums, and ``skipped``, () each."""
        self.progress.fill_(progress)
        for update in self.updates:
            update.look_ahead()
        try:
            with validation(on=False), tracing_gradients():
                passed, is_given = self.graph(x, context, examples)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(_why(error, self.plain)) from error
        if not self.is_begun:
            self.is_begun = True
            received = {id(p) for p, is_own in zip(self.trained, is_given, strict=True) if is_own}
            check_gradients(self.plain.model, self.plain.objective, received)
        found: Passed = passed
        return found

    def step(self, x: Tensor, context: Mapping[str, Tensor], examples: int) -> tuple[Passed, list[bool]]:
        """What is made one graph: the step, and which parameters a gradient was found for."""
        total, log, usage = self.plain(x, context, self.progress, examples)
        with torch.autocast(x.device.type, enabled=False):
            gradients = list(torch.autograd.grad(total, self.trained, allow_unused=True))
            with torch.no_grad():
                if self.clip is not None:
                    for own in self.clipped_together:
                        norm = torch.stack([gradients[i].square().sum() for i in own]).sum().sqrt()
                        factor = (self.clip / (norm + SMALL)).clamp(max=1.0)
                        for i in own:
                            gradients[i] = factor * gradients[i]
                skipped = not_finite(gradient for gradient in gradients if gradient is not None)
                rest = iter(gradients)
                for update in self.updates:
                    update.take([next(rest) for _ in update.parameters], 1 - skipped)
                sums = {name: value.detach().sum(dtype=torch.float64) for name, value in log.items()}
        return Passed(skipped, {**sums, "skipped": skipped}, usage), [gradient is not None for gradient in gradients]


class _Update:
    """The update of one group of the optimiser's parameters."""

    def __init__(self, optimizer: torch.optim.Adam, number: int) -> None:
        self.optimizer, self.number, self.parameters = optimizer, number, optimizer.param_groups[number]["params"]
        self.is_matrices = bool(self.settings.get("is_matrices", False))
        self.betas, self.eps = tuple(self.settings["betas"]), float(self.settings["eps"])
        self.states: list[dict[str, Tensor]] = []
        like = {"dtype": self.parameters[0].dtype, "device": self.parameters[0].device}
        self.size, self.scale = torch.zeros((), **like), torch.ones((), **like)

    @property
    def settings(self) -> Mapping[str, Any]:
        """As they are now: a state that is restored brings its own."""
        settings: Mapping[str, Any] = self.optimizer.param_groups[self.number]
        return settings

    def look_ahead(self) -> None:
        """Find how far the step to come goes: the same for all parameters of the group, which have made as many steps."""
        if not self.states:  # not before: a state that is restored takes the place of what was there
            self.states = [begun(self.optimizer, p, self.is_matrices) for p in self.parameters]
            for kept in chain.from_iterable(state.values() for state in self.states):
                torch._dynamo.mark_static_address(kept)  # without which a CUDA graph does not change what it is given
        if self.is_matrices:
            self.size.fill_(self.settings["lr"])
            return
        # in each entry the compiler would work these out again; and 1 - 0.999 has lost four digits in float32
        step, (first, second) = self.states[0]["step"].double() + 1, self.betas
        self.size.copy_(self.settings["lr"] / (1 - first**step))
        self.scale.copy_((1 - second**step).sqrt())

    def take(self, gradients: Sequence[Tensor | None], taken: Tensor) -> None:
        """Change each parameter that has a gradient."""
        for p, gradient, state in zip(self.parameters, gradients, self.states, strict=True):
            if gradient is None:
                continue
            if self.is_matrices:
                orthogonal_update(p, gradient, state, self.size, taken)
            else:
                adam_update(p, gradient, state, self.size, self.scale, self.betas, self.eps, taken)


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


@contextmanager
def tracing_gradients() -> Iterator[None]:
    """Let torch trace ``torch.autograd.grad`` in a block; its own way to patch a setting takes 35 us."""
    settings: Any = torch._dynamo.config
    before = settings.trace_autograd_ops
    settings.trace_autograd_ops = True
    try:
        yield
    finally:
        settings.trace_autograd_ops = before


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
