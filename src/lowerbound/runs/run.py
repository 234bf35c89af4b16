"""The run folder: everything about one training, in files that are safe to load and always whole.

    config.yaml          complete and resolved; training it again repeats the run
    model.safetensors    the best weights on validation, or the last where there is none
    metrics.jsonl        one object an epoch
    evaluation.json      the evaluation of those weights
    report.html          everything about the run in one file that opens from disk
    sheet.png            examples, reconstructions and samples, where the data are pictures
    logs/                what the loggers "tensorboard" and "csv" write, where one was asked for
    checkpoint/          the last state of training: state.json names the tensors that belong to it

A checkpoint is committed by replacing state.json, which names its tensor file and that file's
digest: a reader sees the old pair or the new one. What is written between two checkpoints is
written again, identically, by a resumed run.

Every file that numbers come from carries a digest of its content (:mod:`lowerbound.runs.digests`),
which is compared whenever it is read. config.yaml has none, since people edit it; what the weights
were trained as stands beside them in model.safetensors, and is compared with it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from torch import Tensor

from lowerbound.config.build import build_model, complete, listed
from lowerbound.config.settings import as_yaml, read_yaml_file
from lowerbound.data.names import Names
from lowerbound.model import Model
from lowerbound.runs.checked import check_evaluation, check_records, check_trained_as
from lowerbound.runs.digests import NoDigestError, signed, signed_lines, verified, verified_lines
from lowerbound.runs.tensors import (
    TensorFile,
    load_weights,
    read_tensor_file,
    total,
    write_tensors,
)
from lowerbound.shapes import as_shape
from lowerbound.utils.files import read_json, write_json, write_text
from lowerbound.utils.memory import at_most
from lowerbound.utils.messages import first_line, pasted, printable
from lowerbound.utils.modes import by_default
from lowerbound.utils.seeding import seeded

FORMAT = 2  # since 2, every file that numbers come from carries a digest
SLACK = 2**22  # numbers that constructors may ask for besides, and in passing: 16 MiB
COPY = "restore it from a copy, or train anew (--overwrite)"
TRAINED_AS = "trained_as"  # in the header of model.safetensors: the configuration of its parts
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
        self.state_file = self.checkpoint_folder / "state.json"
        self.lock = FileLock(self.path / LOCK, timeout=0)

    def __str__(self) -> str:
        return printable(self.path)

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.config_file.is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against other processes; a lock dies with its process. The same object
        may hold it twice.

        Raises:
            ValueError: another process holds it, or its checkpoints would be written elsewhere.
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
            self._check_checkpoint_is_here()
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
            content = as_yaml({"format": FORMAT, **config})
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
        return [self.state_file] * self.state_file.exists() + [
            path
            for path in self.checkpoint_folder.glob("state-*.safetensors")
            if re.fullmatch(r"state-\d+(-again)?", path.stem)
        ]

    def _check_checkpoint_is_here(self) -> None:
        """Refuse a checkpoint folder that is a link: what is written and deleted in it would lie in
        a folder that nobody named.
        """
        if self.checkpoint_folder.is_symlink():
            raise ValueError(
                f"{self.checkpoint_folder} is a link to another folder, in which nothing is "
                "written, read or deleted; put the folder itself in its place, or remove the link"
            )

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
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
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

    def card(self) -> dict[str, Any]:
        """What the configuration says of the data.

        Raises:
            ValueError: it is not the configuration of a run.
        """
        card = self.config().get("data")
        if not isinstance(card, Mapping) or not isinstance(card.get("event_shape"), list):
            raise ValueError(
                f"{self.config_file} does not say data.event_shape; it is not the configuration of "
                "a run"
            )
        return dict(card)

    def model(self, trust: Sequence[str] = ()) -> Model:
        """The model with its saved weights, in evaluation mode.

        Raises:
            ValueError: the folder is not a whole run, or its files do not fit each other.
        """
        config, card = self.config(), self.card()
        file = self._weights()
        settings = complete(config, trust=trust)
        shape = as_shape(card["event_shape"], "data.event_shape")
        now = {"event_shape": list(shape), **listed(settings)}
        check_trained_as(file.about.get(TRAINED_AS, {}), now, str(self.config_file))
        what = f"{self.config_file} describes another model than {self.model_file.name} holds"
        try:
            # sizes in a file may be any: nothing is allocated that those weights could not fill
            # a model is made with weights that are drawn, though others follow
            with seeded(0), at_most(16 * total(file.tensors) + SLACK, what):
                model = build_model(settings, shape, trust)
        except (ValueError, ImportError):
            raise
        except Exception as error:  # of torch, or of a part, whose constructor may raise anything
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{what}: {said}") from error
        load_weights(model, file.tensors, str(self.model_file))
        model.origin, model.names = self.origin(), Names.of_record(card)
        return model.eval()

    def _weights(self) -> TensorFile:
        """What model.safetensors holds."""
        if not self.model_file.is_file():
            self.config()
            raise ValueError(
                f"{self.path} has no model.safetensors: its training has not got that far; resume "
                "it"
            )
        return self._tensors_in(
            self.model_file,
            f"restore it from a copy, or from the checkpoint: {self._resuming()}",
        )

    def _tensors_in(self, path: Path, remedy: str) -> TensorFile:
        file = read_tensor_file(path, remedy)
        if not file.is_signed and self.is_signed:
            raise ValueError(
                f"{path} has no SHA-256 of its content, so it is not the file that this run wrote; "
                f"{remedy}"
            )
        return file

    @property
    def is_signed(self) -> bool:
        """Whether the run is of a version that writes digests, so that they are demanded."""
        return not self.exists or bool(self.config()["format"] > 1)

    def _verified(self, content: Any) -> dict[str, Any]:
        """The content of a file without its digest, which is compared, and demanded where the run
        is of a version that writes it.
        """
        try:
            return verified(content)
        except NoDigestError:
            if self.is_signed:
                raise
        return dict(content)

    def _resuming(self) -> str:
        return f"lowerbound train --resume --out {pasted(self.path)}"

    def begin_with(self, model: Model) -> None:
        """Give a model the weights of this run, for a training that goes on from them.

        Raises:
            ValueError: there are none, or the model is of another shape: by the first part that
                differs.
        """
        model.origin, model.names = self.origin(), Names.of_record(self.card())
        load_weights(model, self._weights().tensors, str(self.model_file))

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

    def write_model(self, state: Mapping[str, Tensor], trained_as: Mapping[str, Any]) -> None:
        """Replace model.safetensors.

        Args:
            state: the weights.
            trained_as: the configuration of the model's parts and its event_shape, which loading
                compares with config.yaml.
        """
        write_tensors(self.model_file, state, {TRAINED_AS: trained_as})

    def metrics(self) -> list[dict[str, Any]]:
        """The epochs recorded so far.

        Raises:
            ValueError: metrics.jsonl is damaged, or lacks epochs that the checkpoint knows.
        """
        known = self._state()["records"] if self.has_checkpoint else []
        with _whole(self.metrics_file, f"write it anew: {self._resuming()}"):
            text = self.metrics_file.read_text("utf-8") if self.metrics_file.is_file() else ""
            records = verified_lines(text, bool(text) and self.is_signed)
            check_records(records)
            if records[: len(known)] != known:
                raise ValueError("it lacks epochs that the checkpoint holds")
        return records

    def write_metrics(self, epochs: Sequence[Mapping[str, Any]]) -> None:
        """Replace metrics.jsonl."""
        write_text(self.metrics_file, signed_lines(epochs))

    def evaluation(self) -> dict[str, Any]:
        """The content of evaluation.json.

        Raises:
            ValueError: it is damaged.
        """
        again = f"lowerbound evaluate {pasted(self.path)}"
        with _whole(self.evaluation_file, f"write it anew: {again}"):
            content = self._verified(read_json(self.evaluation_file))
            check_evaluation(content)
        return content

    def write_evaluation(self, content: Mapping[str, Any]) -> Path:
        """Replace evaluation.json, or for another split than test evaluation-SPLIT.json."""
        split = content["split"]
        return write_json(
            self.path / ("evaluation.json" if split == "test" else f"evaluation-{split}.json"),
            signed(content),
        )

    def write_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Commit a state of training: first the tensors under a new name, then state.json, which
        names them.

        Raises:
            ValueError: the checkpoint's folder is a link.
        """
        self._check_checkpoint_is_here()
        self.checkpoint_folder.mkdir(exist_ok=True)
        name = f"state-{state['step']}.safetensors"
        if name == self._committed():  # after the same step: what is committed stays until the end
            name = f"state-{state['step']}-again.safetensors"
        sha256 = write_tensors(self.checkpoint_folder / name, tensors)
        content = {**state, "tensors": name, "tensors_sha256": sha256}
        write_json(self.state_file, signed(content))
        for old in self._checkpoint_files():
            if old.name not in (name, self.state_file.name):
                old.unlink()

    def _committed(self) -> str | None:
        """The name of the tensor file of the last committed state; None where there is none."""
        try:
            return str(read_json(self.state_file)["tensors"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def has_checkpoint(self) -> bool:
        """Whether a state of training has been committed."""
        return self.state_file.is_file()

    def _state(self) -> dict[str, Any]:
        """The content of state.json.

        Raises:
            ValueError: it is damaged, or names a file elsewhere.
        """
        self._check_checkpoint_is_here()
        with _whole(self.state_file, COPY):
            state = read_json(self.state_file)
            if not isinstance(state, dict) or not isinstance(state.get("tensors"), str):
                raise ValueError("it does not name a file of tensors")
            if not isinstance(state.get("records"), list):
                raise ValueError("it holds no records of epochs")
            if Path(state["tensors"]).name != state["tensors"]:
                raise ValueError("it names a file outside its folder")
            return self._verified(state)

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The last committed state of training, or None where there is none yet.

        Raises:
            ValueError: the checkpoint is damaged, or names a file elsewhere.
        """
        if not self.has_checkpoint:
            return None
        state = self._state()
        path = self.checkpoint_folder / state["tensors"]
        file = self._tensors_in(path, COPY)
        if file.is_signed and state.get("tensors_sha256", file.sha256) != file.sha256:
            raise ValueError(
                f"{path} is damaged: it is not the file that {self.state_file.name} names (its "
                f"SHA-256 differs); {COPY}"
            )
        return file.tensors, state


@by_default()
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


@contextmanager
def _whole(file: Path, remedy: str) -> Iterator[None]:
    """Say in one line which file is damaged, and what to do."""
    try:
        yield
    except ValueError as error:
        said = first_line(error)
        told = said if str(file) in said else f"{file} is damaged: {said}"
        raise ValueError(f"{told}; {remedy}") from None
