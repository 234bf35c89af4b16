"""What ``compile=True`` means: a training step as one graph, or, where others take part in it, its
pass as one.

Inductor fuses what stands between the matrix products, so that a batch is read once where the plain
pass reads it a dozen times, and nothing of Python is left in between: examples, draw, objective,
gradients, clipping and the optimiser's update. The noise comes from the same generator, drawn by
the same calls, as in the plain pass, so that the two differ by rounding alone, and a run can be
resumed. Several processes average their gradients before the update, and in 16-bit training a
scaler decides about it: there the pass, forward and backward, is the graph, as it is with Muon, and
for a torch that cannot trace gradients yet.

A graph is made for one size of batch. Batches of another size, the last of an epoch and those of
validation, go through the plain pass: it costs little there, and no graph is made a second time.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.training.optimizers import Adam, adam_update, begun
from lowerbound.training.passes import Pass, check_gradients, not_finite

BESIDE_NORM = 1e-6  # added to it, as torch's clip_grad_norm_ does
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
        with unvalidated():
            self.graph = torch.compile(
                plain.forward, fullgraph=True, dynamic=False, options={"fallback_random": True}
            )  # the noise of the plain pass

    def forward(
        self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int
    ) -> Any:
        """As :meth:`Pass.forward`."""
        if not self.training or len(x) != self.batch_size:
            return self.plain(x, context, progress, examples)
        # a number would be written into the graph, and every step need another one
        moving = torch.tensor(progress, dtype=next(self.parameters()).dtype)
        try:
            with unvalidated():
                # to be computed with as a number
                return self.graph(x, context, moving, examples)  # type: ignore[arg-type]
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(_why(error, self.plain)) from error


class CompiledStep:
    """A training step as one graph, to be called within :func:`tracing_steps`.

    Args:
        plain: the pass.
        optimizer: Adam, whose state the graph changes, so that it is saved and resumed as ever.
        clip: the largest norm of the gradient, of model and objective each by itself; None leaves
            it.
        device: of the parameters.

    Raises:
        ValueError: at the first step, where model or objective cannot be put into one graph, or a
            parameter receives no gradient.
    """

    def __init__(
        self, plain: Pass, optimizer: torch.optim.Adam, clip: float | None, device: torch.device
    ) -> None:
        self.plain, self.clip = plain, clip
        self.updates = [_Update(optimizer, i) for i in range(len(optimizer.param_groups))]
        self.trained = [p for update in self.updates for p in update.parameters]
        # a number would be written into the graph, and every step need another one; for a tensor
        # nobody waits
        self.progress = torch.zeros((), dtype=self.trained[0].dtype, device=device)
        # the noise of the plain pass; on a GPU all kernels of a step are launched as one, and on a
        # CPU they are called from C++, which is sooner compiled, too: as one file
        options: dict[str, Any] = {
            "fallback_random": True,
            "triton.cudagraphs": device.type == "cuda",
            "cpp_wrapper": device.type == "cpu",
        }
        with unvalidated():
            self.graph = torch.compile(self.step, fullgraph=True, dynamic=False, options=options)

    def __call__(
        self, x: Tensor, context: Mapping[str, Tensor], progress: float, examples: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Take a step on what :meth:`Pass.forward` takes: sums of what is logged, ``skipped`` among
        it, and codes' usage.
        """
        self.progress.fill_(progress)
        for update in self.updates:
            update.look_ahead()
        try:
            log, usage, without = self.graph(x, context, examples)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ValueError(_why(error, self.plain)) from error
        if without:
            received = {id(p) for i, p in enumerate(self.trained) if i not in without}
            check_gradients(self.plain.model, self.plain.objective, received)
        if x.is_cuda:  # the next launch of a CUDA graph writes over what this one gave
            log = {name: value.clone() for name, value in log.items()}
        return log, usage

    def step(
        self, x: Tensor, context: Mapping[str, Tensor], examples: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], list[int]]:
        """What is made one graph. Where parameters have no gradient it only tells their places."""
        total, log, usage = self.plain(x, context, self.progress, examples)
        with torch.autocast(x.device.type, enabled=False):
            gradients = torch.autograd.grad(total, self.trained, allow_unused=True)
            without = [i for i, gradient in enumerate(gradients) if gradient is None]
            if without:
                return {}, {}, without
            with torch.no_grad():
                rest = iter(gradients)
                groups = [
                    self.clipped([next(rest) for _ in update.parameters]) for update in self.updates
                ]
                skipped = not_finite(chain.from_iterable(groups))
                for update, clipped in zip(self.updates, groups, strict=True):
                    update.take(clipped, 1 - skipped)
                sums = {
                    name: value.detach().sum(dtype=torch.float64) for name, value in log.items()
                }
        return {**sums, "skipped": skipped}, usage, []

    def clipped(self, gradients: list[Tensor]) -> list[Tensor]:
        """Those of a group, by the formula of torch's ``clip_grad_norm_``, which acts on what
        parameters hold.
        """
        if self.clip is None:
            return gradients
        norm = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]).norm()
        factor = (self.clip / (norm + BESIDE_NORM)).clamp(max=1.0)
        return [factor * gradient for gradient in gradients]


class _Update:
    """The update of one group of the optimiser's parameters."""

    def __init__(self, optimizer: torch.optim.Adam, number: int) -> None:
        self.optimizer, self.number, self.parameters = (
            optimizer,
            number,
            optimizer.param_groups[number]["params"],
        )
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
        """Find how far the step to come goes: the same for all parameters of the group, which have
        made as many steps.
        """
        # not before: a state that is restored takes the place of what was there
        if not self.states:
            # torch loses what a graph does to a () of float64 on a CPU, but not to a view of it
            self.states = [
                {
                    name: value.view(1) if p.ndim == 0 and name != "step" else value
                    for name, value in begun(self.optimizer, p).items()
                }
                for p in self.parameters
            ]
            for moment in chain.from_iterable(state.values() for state in self.states):
                # without which a CUDA graph does not change what it is given
                torch._dynamo.mark_static_address(moment)
        # in each entry the compiler would work these out again; and 1 - 0.999 has lost four digits
        # in float32
        taken, (first, second) = self.states[0]["step"], self.betas
        # on a CPU nobody waits for a number, and these are then no operations of torch
        step = (float(taken) if taken.device.type == "cpu" else taken.double()) + 1
        self.size.fill_(self.settings["lr"] / (1 - first**step))
        self.scale.fill_((1 - second**step) ** 0.5)

    def take(self, gradients: Sequence[Tensor], taken: Tensor) -> None:
        """Change each parameter by its gradient."""
        for p, gradient, state in zip(self.parameters, gradients, self.states, strict=True):
            shape = state["exp_avg"].shape
            value, slope = p.view(shape), gradient.reshape(shape)
            adam_update(value, slope, state, self.size, self.scale, self.betas, self.eps, taken)


class _Unvalidated:
    """The block of :func:`unvalidated`; blocks within blocks are one, and so are those of several
    threads, since the setting is the process's.
    """

    blocks, before, lock = 0, True, threading.Lock()

    def __enter__(self) -> None:
        with self.lock:
            if _Unvalidated.blocks == 0:
                _Unvalidated.before = Distribution._validate_args
            _Unvalidated.blocks += 1
            Distribution.set_default_validate_args(False)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            _Unvalidated.blocks -= 1
            if _Unvalidated.blocks == 0:
                Distribution.set_default_validate_args(_Unvalidated.before)


def unvalidated() -> AbstractContextManager[None]:
    """A block in which distributions do not validate their arguments, and as before after it.

    torch turns that off for all that the process does after its first compilation, and could not
    compile it.
    """
    return _Unvalidated()


def has_graphs(module: nn.Module) -> bool:
    """Whether any part of it is a graph of ``torch.compile`` already."""
    return any(
        type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None
        for part in module.modules()
    )


def fits_one_graph(plain: Pass, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a graph of the whole step would do all that the step does.

    What waits for a parameter's gradient (a hook) would wait for ever, and of Adam's settings the
    update knows those alone that objectives are offered. Other optimisers stay outside; of Muon the
    cost are its matrix products, in a graph or not.
    """
    hooks = any(p._backward_hooks or p._post_accumulate_grad_hooks for p in plain.parameters())
    others = ("weight_decay", "amsgrad", "maximize")
    return not (
        hooks
        or type(optimizer) not in (Adam, torch.optim.Adam)
        or any(group[name] for group in optimizer.param_groups for name in others)
    )


@contextmanager
def tracing_steps() -> Iterator[None]:
    """Let torch trace whole steps in a block, gradients among it; around all steps, since it takes
    its time.
    """
    settings: Any = torch._dynamo.config
    before = settings.trace_autograd_ops
    settings.trace_autograd_ops = True
    try:
        with unvalidated():
            yield
    finally:
        settings.trace_autograd_ops = before


def _why(error: Exception, of: Pass) -> str:
    """One line from many: what torch says, and the last place in the code of the parts."""
    places = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', str(error))
    outside = [place for place in places if f"torch{os.sep}" not in place[0]]
    where = ""
    if outside:
        file, number, function = outside[-1]
        where = f" (in {function}, {Path(file).name} line {number})"
    # the first line says what, and where the compiler itself failed, only that
    lines = [
        line.strip()
        for line in str(error).splitlines()
        if line.strip() and not line.startswith("backend=")
    ]
    parts = ", ".join(type(part).__name__ for part in of.model.parts.values())
    return (
        f"{type(of.model).__name__} of {parts} under {type(of.objective).__name__} cannot be "
        f"compiled: {lines[0] if lines else type(error).__name__}{where}; leave compile off, which "
        "changes nothing but the time"
    )


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where there is no compiler.

    Raises:
        ValueError: what is missing, and what would work.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(
        sys.platform, "g++"
    )
    if not any(shutil.which(word) for word in compiler.split()[:1]):
        raise ValueError(
            f"compile needs a C++ compiler, and {compiler!r} is not there: install one (g++, or "
            "clang), name it in the variable CXX, or leave compile off"
        )
    if device.type == "cuda" and not torch.utils._triton.has_triton():
        raise ValueError("compile needs Triton on a GPU: install triton, or leave compile off")
    if device.type == "mps":
        raise ValueError("compile is not supported on mps; use device 'cpu', or leave compile off")
