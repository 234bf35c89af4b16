"""The run folder: everything about one training, in files that are safe to load and always whole.

    config.yaml          complete and resolved; training it again repeats the run
    model.safetensors    the best weights on validation, or the last where there is none
    metrics.jsonl        one object an epoch
    evaluation.json      the evaluation of those weights
    report.html          everything about the run in one file that opens from disk
    sheet.png            examples, reconstructions and samples, where the data are pictures
    logs/                what the loggers "tensorboard" and "csv" write, where one was asked for
    checkpoint/          the last state of training: state.json names the tensors that belong to it

A checkpoint is committed by replacing state.json, which names its tensor file: a reader sees the
old pair or the new one. What is written between two checkpoints is written again, identically, by a
resumed run.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lowerbound.config.build import build_model, complete
from lowerbound.config.settings import read_yaml_file
from lowerbound.data.names import Names
from lowerbound.model import Model
from lowerbound.shapes import as_shape
from lowerbound.utils.files import write_atomic, write_json, write_text
from lowerbound.utils.messages import first_line, pasted
from lowerbound.utils.seeding import seeded

FORMAT = 1
FILES = (
    "config.yaml",
    "model.safetensors",
    "metrics.jsonl",
    "evaluation.json",
    "sheet.png",
    "report.html",
)
LOCK = ".lock"


class Run:
    """A run folder.

    Args:
        path: the folder; it is not touched until something is written.
    """

    def __init__(self, path: str | Path) -> None:
        if not str(path):
            raise ValueError("the run folder's name is empty")
        self.path = Path(path).expanduser()
        files = (self.path / name for name in FILES)
        (
            self.config_file,
            self.model_file,
            self.metrics_file,
            self.evaluation_file,
            self.sheet_file,
            self.report_file,
        ) = files
        self.checkpoint_folder = self.path / "checkpoint"
        self.logs_folder = self.path / "logs"
        self.lock = FileLock(self.path / LOCK, timeout=0)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.config_file.is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes; a lock dies with its process. The same object
        may hold it twice.

        Raises:
            ValueError: another process holds it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file, and a run needs a folder")
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise ValueError(
                f"{self.path} is in use by another process; wait for it, or use another folder"
            ) from None
        try:
            if self.lock.lock_counter == 1:
                for stale in (*self.path.glob(".*.tmp"), *self.checkpoint_folder.glob(".*.tmp")):
                    stale.unlink()  # left over by a writer that was killed
            yield
        finally:
            self.lock.release()
            # nothing came of it: leave no trace, once nobody holds it any more
            if not self.lock.is_locked and {path.name for path in self.path.iterdir()} <= {LOCK}:
                (self.path / LOCK).unlink(missing_ok=True)
                self.path.rmdir()

    def begin(self, config: Mapping[str, Any], overwrite: bool) -> None:
        """Make the folder hold a new run; the caller holds the lock.

        The old run's other files go first and its configuration last, so that at every moment the
        folder holds a run, or the beginning of one.

        Raises:
            ValueError: it holds another run and overwrite is False, or files that are not a run's.
        """
        try:
            content = yaml.safe_dump(
                {"format": FORMAT, **config}, sort_keys=False, allow_unicode=True
            )
        except yaml.YAMLError as error:
            raise ValueError(
                f"the configuration holds a value that no file can: {first_line(error)}"
            ) from None
        self.check_free(resume=False, overwrite=overwrite)
        self._discard()
        write_text(self.config_file, content)

    def abandon(self) -> None:
        """Take back what :meth:`begin` did: of a training that failed in its first epoch nothing is
        worth keeping.
        """
        self._discard()
        self.config_file.unlink(missing_ok=True)

    def _discard(self) -> None:
        for old in [*self._checkpoint_files(), *self.path.glob("evaluation*.json")]:
            old.unlink()
        for name in FILES[1:]:
            (self.path / name).unlink(missing_ok=True)
        if self.logs_folder.is_dir() and not self.logs_folder.is_symlink():
            shutil.rmtree(self.logs_folder)
        if self.checkpoint_folder.is_dir() and not any(self.checkpoint_folder.iterdir()):
            self.checkpoint_folder.rmdir()

    def check_free(self, resume: bool, overwrite: bool) -> None:
        """Refuse to begin a run where something else is.

        Raises:
            ValueError: the folder holds a run that is neither resumed nor overwritten, or files
                that are not a run's.
        """
        there = [
            name for name in (*FILES, self.checkpoint_folder.name) if (self.path / name).exists()
        ]
        if not there or resume:
            return
        if not self._is_ours():
            raise ValueError(
                f"{self.path} holds {there[0]} but is not the folder of a run, so nothing in it "
                "was touched; use another folder"
            )
        if not overwrite:
            raise ValueError(
                f"{self.path} holds another run: resume it, overwrite it, or use another folder"
            )

    def _is_ours(self) -> bool:
        try:
            self.config()
        except ValueError:
            return False
        return not self.checkpoint_folder.is_symlink()

    def _checkpoint_files(self) -> list[Path]:
        return [self.checkpoint_folder / "state.json"] * (
            self.checkpoint_folder / "state.json"
        ).exists() + [
            path
            for path in self.checkpoint_folder.glob("state-*.safetensors")
            if re.fullmatch(r"state-\d+", path.stem)
        ]

    def config(self) -> dict[str, Any]:
        """The content of config.yaml.

        Raises:
            ValueError: the folder is missing or holds no run, or one of a newer version.
        """
        if not self.path.is_dir():
            raise ValueError(f"there is no run folder {self.path}")
        if not self.exists:
            raise ValueError(f"{self.path} is not a run folder: it has no config.yaml")
        config = read_yaml_file(self.config_file)
        version = config.get("format")
        if not isinstance(version, int):
            raise ValueError(
                f"{self.config_file} does not say its format; it is not the configuration of a run"
            )
        if version > FORMAT:
            raise ValueError(
                f"{self.path} was written by a newer lowerbound (format {version}, this one reads "
                f"{FORMAT})"
            )
        return {
            "model": {"part": "VAE"},
            **config,
        }  # a folder that does not say is of a time when there was no other

    def model(self, trust: Sequence[str] = ()) -> Model:
        """The model with its saved weights, in evaluation mode.

        Raises:
            ValueError: the folder is not a whole run, or its files do not fit each other.
        """
        config = self.config()
        data = config.get("data")
        if not isinstance(data, Mapping) or not isinstance(data.get("event_shape"), list):
            raise ValueError(
                f"{self.config_file} does not say data.event_shape; it is not the configuration of "
                "a run"
            )
        x_shape = as_shape(data["event_shape"], "data.event_shape")
        with seeded(0):  # a model is made with weights that are drawn, though others follow
            model = build_model(complete(config, trust=trust), x_shape, trust)
        if not self.model_file.is_file():
            raise ValueError(
                f"{self.path} has no model.safetensors: its training has not got that far; resume "
                "it"
            )
        load_weights(model, read_tensors(self.model_file), str(self.model_file))
        model.origin, model.names = self.origin(), Names.of_record(data)
        return model.eval()

    def begin_with(self, model: Model) -> None:
        """Give a model the weights of this run, for a training that goes on from them.

        Raises:
            ValueError: there are none, or the model is of another shape: by the first part that
                differs.
        """
        model.origin, model.names = self.origin(), Names.of_record(self.config()["data"])
        load_weights(model, read_tensors(self.model_file), str(self.model_file))

    def origin(self) -> dict[str, Any]:
        """Whose weights a model has that was trained or loaded here: what a run that goes on from
        them records.

        Raises:
            ValueError: there are none.
        """
        if not self.model_file.is_file():
            self.config()
            raise ValueError(f"{self.path} has no model.safetensors: it has not been trained yet")
        digest = hashlib.sha256(self.model_file.read_bytes()).hexdigest()
        return {"run": str(self.path.resolve()), "sha256": digest}

    def write_model(self, state: Mapping[str, Tensor]) -> None:
        """Replace model.safetensors."""
        write_tensors(self.model_file, state)

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs recorded so far.

        Raises:
            ValueError: metrics.jsonl is damaged.
        """
        if not self.metrics_file.is_file():
            return []
        try:
            return [json.loads(line) for line in self.metrics_file.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{self.metrics_file} is damaged: {first_line(error)}") from None

    def write_metrics(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Replace metrics.jsonl."""
        write_text(
            self.metrics_file,
            "".join(json.dumps(epoch, allow_nan=False) + "\n" for epoch in epochs),
        )

    def evaluation(self) -> dict[str, Any]:
        """The content of evaluation.json.

        Raises:
            ValueError: it is damaged.
        """
        try:
            content = json.loads(self.evaluation_file.read_text("utf-8"))
            parts = [
                content[key] or {"value": 0, "stderr": 0, "unit": ""}
                for key in ("rate", "nll", "objective")
            ]
            parts += [point["nll"] for point in content.get("curve", [])]
            sound = isinstance(content["estimator"], str) and all(
                {"value", "stderr", "unit"} <= part.keys() for part in parts
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise ValueError(
                f"{self.evaluation_file} is damaged; write it anew: lowerbound evaluate "
                f"{pasted(self.path)}"
            )
        return dict(content)

    def write_evaluation(self, content: Mapping[str, Any]) -> Path:
        """Replace evaluation.json, or for another split than test evaluation-SPLIT.json."""
        split = content["split"]
        return write_json(
            self.path / ("evaluation.json" if split == "test" else f"evaluation-{split}.json"),
            content,
        )

    def write_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Commit a state of training: first the tensors under a new name, then state.json, which
        names them.
        """
        self.checkpoint_folder.mkdir(exist_ok=True)
        name = f"state-{state['step']}.safetensors"
        write_tensors(self.checkpoint_folder / name, tensors)
        write_json(self.checkpoint_folder / "state.json", {**state, "tensors": name})
        for old in self._checkpoint_files():
            if old.name not in (name, "state.json"):
                old.unlink()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a state of training has been committed."""
        return (self.checkpoint_folder / "state.json").is_file()

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last committed state of training, or None where there is none yet.

        Raises:
            ValueError: the checkpoint is damaged, or names a file elsewhere.
        """
        if not self.has_checkpoint:
            return None
        file = self.checkpoint_folder / "state.json"
        try:
            state = json.loads(file.read_text("utf-8"))
            name = Path(state["tensors"]).name
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is damaged: {first_line(error)}") from None
        if state["tensors"] != name:
            raise ValueError(f"{file} names a file outside its folder")
        return read_tensors(self.checkpoint_folder / name), state


def load(path: str | Path, trust: Sequence[str] = ()) -> Model:
    """The trained model of a run folder.

    Args:
        path: the folder.
        trust: packages, by name, whose parts may be imported where the model was built from them.

    Raises:
        ValueError: no run there, a half-written one, one of a newer version, weights that do not
            fit, or parts from a package that is not trusted.

    Example:
        >>> import lowerbound as lb, tempfile, torch
        >>> digits = lb.data.load("digits", binarize="threshold")
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal(digits.event_shape, (2,)),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), digits.event_shape),
        ... )
        >>> out = tempfile.mkdtemp()
        >>> history = lb.fit(model, lb.objectives.ELBO(), digits, epochs=1, out=out, progress=False)
        >>> again = lb.load(out)
        >>> x = digits.examples("test")
        >>> torch.equal(again.encode(x), model.encode(x))
        True
    """
    return Run(path).model(trust)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name as safetensors."""
    content = save_tensors(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    )
    write_atomic(path, lambda stream: stream.write(content))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; nothing in it can execute.

    Raises:
        ValueError: the file is missing, truncated or of another kind.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return dict(load_tensors(path.read_bytes()))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {first_line(error)}") from None


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module, in their own precision.

    Raises:
        ValueError: names or shapes do not fit.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or extra:
        raise ValueError(
            f"{where} does not fit the model: "
            + "; ".join(
                f"{word} {', '.join(names[:3])}"
                for word, names in (("lacks", missing), ("has", extra))
                if names
            )
        )
    for name, tensor in own.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{where} does not fit the model: {name} is {tuple(tensors[name].shape)}, not "
                f"{tuple(tensor.shape)}"
            )
    floating = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(floating) == 1:
        module.to(floating.pop())
    module.load_state_dict(dict(tensors))
