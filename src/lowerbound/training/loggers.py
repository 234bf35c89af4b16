"""Where the numbers of a training go besides metrics.jsonl: a logger, by name or the user's own."""

from __future__ import annotations

import importlib
from typing import Any, Literal, Protocol, get_args

from lowerbound.runs.run import Run
from lowerbound.utils.messages import unknown

LoggerName = Literal["tensorboard", "csv"]


class Logger(Protocol):
    """What a logger must have: one method, as the loggers of Lightning, wandb and mlflow have it.

    ``log_hyperparams(mapping)`` and ``finalize(status)`` are called too where a logger has them.
    """

    def log_metrics(self, metrics: dict[str, float], step: int) -> object:
        """Take named numbers of a step."""


def as_logger(logger: LoggerName | Logger, run: Run | None) -> Logger:
    """A logger by its name, which writes into the folder ``logs`` of the run; any other as it is.

    Raises:
        ValueError: another name, a name without a run folder, or an extra that is not installed.
        TypeError: an object that does not log.
    """
    if not isinstance(logger, str):
        if not callable(getattr(logger, "log_metrics", None)):
            raise TypeError(
                f"logger is {logger!r}: it must be 'tensorboard', 'csv', or an object with "
                "log_metrics(metrics, step)"
            )
        return logger
    if logger not in get_args(LoggerName):
        raise ValueError(unknown("logger", logger, get_args(LoggerName)))
    if run is None:
        raise ValueError(f"logger {logger!r} writes into the run folder: say which with out=")
    loggers: Any = importlib.import_module("lightning_fabric.loggers")  # late, as Fabric itself

    where: dict[str, Any] = {"root_dir": run.path, "name": run.logs_folder.name, "version": ""}
    if logger == "csv":
        # it writes its file anew; a run that is resumed hands it the earlier epochs again
        (run.logs_folder / "metrics.csv").unlink(missing_ok=True)
        # an epoch's line is on disk when the epoch has ended
        made: Logger = loggers.CSVLogger(**where, flush_logs_every_n_steps=1)
        return made
    try:
        made = loggers.TensorBoardLogger(**where, default_hp_metric=False)
    except ModuleNotFoundError:
        raise ValueError(
            "logger 'tensorboard' needs an extra that is not installed: "
            'pip install "lowerbound[tensorboard]"'
        ) from None
    return made
