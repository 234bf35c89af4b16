"""The state of a training run: all that changes from step to step, as tensors and JSON, out and
back in.

Two parts of it are more than storage: the running sums, from which an epoch's means are made, and
the best weights so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.codebook import perplexity
from lowerbound.parallel.processes import ALONE, Processes, together
from lowerbound.runs.run import Run, load_weights
from lowerbound.training.optimizers import moments
from lowerbound.utils.messages import first_line
from lowerbound.utils.seeding import random_state, set_random_state

# steps whose sums are added at once: few arrays are kept, and few operations a step are left
WAITING = 16


class Sums:
    """Sums over the examples of an epoch, kept on the device so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seen = 0  # examples, where they are counted
        self._totals: dict[str, Tensor] = {}
        self._waiting: list[dict[str, Tensor]] = []

    def add(
        self,
        values: Mapping[str, Tensor],
        usage: Mapping[str, Tensor] | None = None,
        examples: int = 0,
    ) -> None:
        """Add quantities of examples, each (B,) or (), and how often each code of a latent was
        used, each (codes,).
        """
        self.seen += examples
        self._waiting.append({name: value.detach() for name, value in values.items()})
        for name, counts in (usage or {}).items():
            self._totals[name] = (
                self._totals[name] + counts if name in self._totals else counts.clone()
            )
        if len(self._waiting) >= WAITING:
            self._settle()

    @property
    def totals(self) -> dict[str, Tensor]:
        """The sum of each quantity, (), in double precision where the device has it, and of the
        usage of codes, (codes,).
        """
        self._settle()
        return self._totals

    @totals.setter
    def totals(self, totals: dict[str, Tensor]) -> None:
        self._totals, self._waiting = totals, []

    def _settle(self) -> None:
        """Add what waits: of many steps at once, since a call costs more than the few numbers of
        one.
        """
        waiting, self._waiting = self._waiting, []
        precision = torch.float32 if self.device.type == "mps" else torch.float64
        for name in dict.fromkeys(name for step in waiting for name in step):
            values = [step[name] for step in waiting if name in step]
            if len({value.shape for value in values}) == 1:
                sums = torch.stack(values).reshape(len(values), -1).sum(1, dtype=precision)
            else:
                sums = torch.stack([value.sum(dtype=precision) for value in values])
            if name in self._totals:
                sums = torch.cat([self._totals[name][None], sums])
            # one after the other, so that the last bit does not depend on when this was called
            self._totals[name] = sums.cumsum(0)[-1].clone()

    def collect(self, world: Processes) -> Sums:
        """The sums over all processes; what is kept is all in the first from then on, so that it
        can be saved.
        """
        if world.size == 1:
            return self
        found = Sums(self.device)
        found.totals = {name: total.clone() for name, total in self.totals.items()}
        scalars = [name for name, total in found.totals.items() if not total.ndim]
        packed = torch.stack([found.totals[name].double() for name in scalars])
        seen = torch.tensor(self.seen)
        world.add([packed, seen, *(total for total in found.totals.values() if total.ndim)])
        found.totals |= dict(zip(scalars, packed, strict=True))
        self.totals = {
            name: total if world.is_first else torch.zeros_like(total)
            for name, total in found.totals.items()
        }
        self.seen = int(seen) if world.is_first else 0
        return found

    def __getitem__(self, name: str) -> float:
        return float(self.totals[name])

    def means(self, n: int) -> dict[str, float | None]:
        """Means over n examples, by the names of metrics.jsonl; None where there is no finite one;
        no count of steps.

        ``elbo`` and ``distortion`` are always named, and are None where the score is no
        log-density. Of the usage of codes there is the perplexity over all n, and the number of
        codes that occurred.
        """
        means = {
            name: float(total) / n
            for name, total in self.totals.items()
            if name != "skipped" and not total.ndim
        }
        for name, total in self.totals.items():
            if total.ndim:
                means |= {
                    f"{name}_perplexity": perplexity(total),
                    f"{name}_used": float((total > 0).sum()),
                }
        named = {
            name: means.pop(name, None) for name in ("loss", "elbo", "rate", "distortion")
        } | means
        return {k: v if v is not None and math.isfinite(v) else None for k, v in named.items()}


class Best:
    """The best weights on validation; where there is no validation, nothing is kept and the last
    weights count.
    """

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.loss = math.inf
        self.epoch = 0
        self.since = 0
        self.weights: dict[str, Tensor] = {}

    def see(self, epoch: int, loss: float | None, model: nn.Module) -> None:
        """Keep a copy of the weights if the validation loss is the smallest so far."""
        self.since += 1
        if loss is not None and loss < self.loss:
            self.loss, self.epoch, self.since = loss, epoch, 0
            self.weights = {
                name: value.detach().clone() for name, value in model.state_dict().items()
            }
        elif not self.weights:
            self.epoch = epoch

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience is not None and self.since >= self.patience


class TrainingState:
    """Everything that a training run needs in order to go on as if it had not been interrupted.

    Args:
        model: the model.
        objective: the objective, which may have parameters of its own.
        optimizer: the optimiser of both.
        precision: Fabric's precision plugin, which holds the loss scale of 16-bit training.
        best: the best weights.
        device: where sums are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: nn.Module,
        optimizer: Optimizer,
        precision: Any,
        best: Best,
        device: torch.device,
    ) -> None:
        self.model, self.objective, self.optimizer, self.precision = (
            model,
            objective,
            optimizer,
            precision,
        )
        self.best = best
        self.epoch, self.done, self.seconds = (
            1,
            0,
            0.0,
        )  # the epoch at work, its batches done, its seconds so far
        self.step = 0
        self.sums = Sums(device)
        self.records: list[dict[str, Any]] = []

    def close_epoch(self, record: dict[str, Any]) -> None:
        """Record an epoch and start the next."""
        self.records.append(record)
        self.epoch, self.done, self.seconds = self.epoch + 1, 0, 0.0
        self.sums = Sums(self.sums.device)

    def save(self, run: Run) -> None:
        """Commit the state to a run folder: the weights and metrics first, the checkpoint that
        vouches for them last.
        """
        if self.step:  # before the first step there is nothing that deserves to be called a model
            run.write_model(self.best.weights or self.model.state_dict())
            run.write_metrics(self.records)
        by_parameter = self.optimizer.state_dict()["state"]
        tensors = {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": {
                f"{i}.{name}": value
                for i, own in by_parameter.items()
                for name, value in own.items()
            },
            "random": random_state(),
            "best": self.best.weights,
            "sums": self.sums.totals,
        }
        state = {
            "epoch": self.epoch,
            "done": self.done,
            "step": self.step,
            "seconds": self.seconds,
            "records": self.records,
            "best": {
                "loss": _finite(self.best.loss),
                "epoch": self.best.epoch,
                "since": self.best.since,
            },
            "precision": self.precision.state_dict(),
            "made_by": made_by(),
        }
        run.write_checkpoint(
            {f"{group}.{k}": v for group, own in tensors.items() for k, v in own.items()}, state
        )

    def _moments(self, flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """The optimiser's state by parameter; the shapes are checked, since the fused update does
        not.
        """
        kept = moments(self.optimizer)
        by_parameter: dict[int, dict[str, Tensor]] = {}
        for name, value in flat.items():
            i, _, rest = name.partition(".")
            if value.shape != kept[int(i)].get(rest) or not value.is_floating_point():
                raise ValueError(f"optimizer.{name} has the wrong shape or type")
            by_parameter.setdefault(int(i), {})[rest] = value
        if by_parameter and {i: set(own) for i, own in by_parameter.items()} != {
            i: set(o) for i, o in enumerate(kept)
        }:
            raise ValueError("the optimiser's moments are not those of the parameters")
        return by_parameter

    def restore(
        self,
        checkpoint: tuple[dict[str, Tensor], dict[str, Any]],
        folder: Path,
        world: Processes = ALONE,
    ) -> str:
        """Go back to a state that was committed to a run folder, by as many processes or by others.

        Returns:
            What differs from the machine that wrote it and so may change the last bits, in words;
            "" where nothing does.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        flat, state = checkpoint
        try:
            tensors = _grouped(flat)
            by_parameter = self._moments(tensors["optimizer"])
            best = state["best"]
            loss = math.inf if best["loss"] is None else float(best["loss"])
            counts = [int(state[key]) for key in ("epoch", "done", "step")] + [
                int(best["epoch"]),
                int(best["since"]),
            ]
            seconds, records = (
                float(state["seconds"]),
                [dict(record) for record in state["records"]],
            )
            precision, maker = dict(state["precision"]), {"processes": 1, **state["made_by"]}
            if (
                min(counts) < 0
                or len(records) != counts[0] - 1
                or bool(counts[1]) != bool(tensors["sums"])
            ):
                raise ValueError("its counts do not fit each other")
            if (
                bool(tensors["best"]) != math.isfinite(loss)
                or tensors["random"]["cpu"].dtype != torch.uint8
            ):
                raise ValueError("the best weights or the random states are missing")
            if counts[2] and not by_parameter:
                raise ValueError("the optimiser's moments are missing")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            what = f"it lacks {error}" if isinstance(error, KeyError) else first_line(error)
            raise ValueError(f"the checkpoint in {folder} is damaged: {what}") from None
        for module, group in (
            (self.model, "best"),
            (self.model, "model"),
            (self.objective, "objective"),
        ):
            if tensors[group] or group != "best":
                load_weights(module, tensors[group], f"the checkpoint's {group}")
        self.epoch, self.done, self.step, self.best.epoch, self.best.since = counts
        self.best.loss, self.seconds, self.records = loss, seconds, records
        settings = self.optimizer.state_dict()["param_groups"]  # they follow from the configuration
        self.optimizer.load_state_dict({"state": by_parameter, "param_groups": settings})
        self.precision.load_state_dict(precision)
        set_random_state(tensors["random"])
        device = self.sums.device
        if device.type == "cuda" and world.size > 1 and "cuda0" in tensors["random"]:
            torch.cuda.set_rng_state(
                tensors["random"]["cuda0"], device
            )  # all draw as the first one
        self.best.weights = {name: value.to(device) for name, value in tensors["best"].items()}
        counted = 1 if world.is_first else 0
        self.sums.totals = {
            name: counted * value.to(device) for name, value in tensors["sums"].items()
        }
        now = made_by()
        return ", ".join(
            f"{key} {maker.get(key)} then, {now[key]} now"
            for key in now
            if maker.get(key) != now[key]
        )


def _grouped(flat: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named group.name, by group."""
    tensors: dict[str, dict[str, Tensor]] = {
        group: {} for group in ("model", "objective", "optimizer", "random", "best", "sums")
    }
    for name, value in flat.items():
        group, _, rest = name.partition(".")
        tensors[group][rest] = value
    return tensors


def made_by() -> dict[str, Any]:
    """What a result depends on in its last bits, beside the configuration."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processes": together().size,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
