"""The command ``lowerbound``: help without torch, one line for every error, exit code 2 for bad
input.

Each command is a function in a module of this package that is imported when it is called.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lowerbound import __version__
from lowerbound.utils.messages import first_line, printable, unknown

COMMANDS = {
    "train": ("train", "train a model on data, evaluate it, and write a run folder"),
    "evaluate": (
        "evidence",
        "ELBO, log-likelihood, rate and distortion of a run, with standard errors",
    ),
    "compare": (
        "evidence",
        "several runs side by side, with paired differences and their standard errors",
    ),
    "sandwich": (
        "evidence",
        "bounds from both sides on log p(x) of data simulated from a run's model",
    ),
    "gaps": (
        "evidence",
        "what the bound loses: in the family of q, and in the network that chooses q",
    ),
    "scores": (
        "evidence",
        "how far known factors have dimensions of their own: MIG, SAP, DCI, FactorVAE score",
    ),
    "sample": ("use", "draw examples from a trained model"),
    "reconstruct": ("use", "encode and decode examples"),
    "encode": ("use", "the latent codes of examples (deterministic)"),
    "impute": ("use", "fill in the missing entries of examples"),
    "score": ("use", "log p(x) of each example, in nats"),
    "report": ("look", "write report.html: curves, numbers and pictures of a run, in one file"),
    "traverse": ("look", "a picture of what each latent dimension does"),
    "interpolate": ("look", "a picture of the way from one example to another"),
    "manifold": ("look", "a picture of a two-dimensional latent plane"),
    "recipes": ("lists", "the recipes that are shipped: published models as configuration files"),
    "data": ("lists", "the data sets that are known by name"),
}

INTERRUPTED = 130  # what a shell reports of a process that Ctrl-C ended
PIPE_CLOSED = 141  # and of one whose reader went away


def usage() -> str:
    """The top-level help."""
    lines = "\n".join(f"  {name:<12} {summary}" for name, (_, summary) in COMMANDS.items())
    return f"""usage: lowerbound COMMAND ...

Train, evaluate, sample and encode with variational autoencoders.

commands:
{lines}

start here:
  lowerbound train                          train on the bundled handwritten digits (half a minute)
  lowerbound train mnist --latent 32        MNIST, with another latent size
  lowerbound train my.npy --epochs 200      your own data, examples first: (n, ...)
  lowerbound evaluate runs/digits-1         the numbers again, with more samples: --samples 5000
  lowerbound COMMAND --help                 every option of a command, explained

options:
  -h, --help     show this
  --version      show the version ({__version__})

Set LOWERBOUND_TRACEBACK=1 to see where an error comes from.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when all went well, 2 for bad input, 130 when interrupted, 141 when nobody reads the
        output any more.
    """
    _open_streams()
    code = 0
    try:
        with warnings.catch_warnings(), suppress(SystemExit):  # which is how --help ends a command
            warnings.showwarning = _note
            code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, where an error has a handler
    except BrokenPipeError:  # `| head` has read what it wanted: no error
        _drop_output()
        return PIPE_CLOSED
    except (ValueError, TypeError, OSError, ImportError) as error:
        if type(error) is ConnectionError:
            return _lost(_words(error))
        if os.environ.get("LOWERBOUND_TRACEBACK"):
            raise
        try:
            sys.stdout.flush()
        except OSError:  # it was the output that failed, on a full disk, say
            _drop_output()
        return _fail(_words(error))
    except KeyboardInterrupt as error:
        if _speaks():
            words = first_line(error) if error.args else "interrupted"
            sys.stderr.write(f"lowerbound: {printable(words)}\n")
        return INTERRUPTED
    except MemoryError:
        return _fail("out of memory; try fewer or smaller examples")
    except RuntimeError as error:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            from lowerbound.parallel.processes import ENDED, is_lost

            if is_lost(error):
                return _lost(ENDED)
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return _fail(
            "out of memory; try fewer at a time (--batch-size in training), or fewer samples or "
            "chains"
        )
    return code


def _run(arguments: list[str]) -> int:
    """The command that is named, or the help."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"lowerbound {__version__}\n")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        raise ValueError(unknown("command", name, COMMANDS))
    module = importlib.import_module(f"lowerbound.cli.{COMMANDS[name][0]}")
    return int(getattr(module, name)(rest) or 0)


def _open_streams() -> None:
    """Have somewhere to write to, where the command was started with closed streams (``>&-``): the
    next file that is opened would get their number, and what is said would be written into it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a terminal without ± is no reason to lose a result
            stream.reconfigure(errors="replace")


def _drop_output() -> None:
    """What is still held for standard output goes nowhere, so that Python does not fail at its end
    once more.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _note(message: Warning | str, *_: object, **__: object) -> None:
    """A warning as a person reads it: what, and not where in the source."""
    if _speaks():
        sys.stderr.write(f"lowerbound: note: {printable(message)}\n")


def _speaks() -> bool:
    """Whether this process speaks for all that work together: once is enough."""
    return not os.environ.get("WORLD_SIZE") or os.environ.get("RANK", "0") == "0"


def _lost(message: str) -> int:
    """The end of one of several processes when another has gone; whoever watches over them says so,
    if somebody does.
    """
    from lowerbound.parallel.launch import GONE, is_watched  # and so torch, which help does without

    return GONE if is_watched() else _fail(message)


def _fail(message: str) -> int:
    sys.stderr.write(f"lowerbound: error: {printable(message)}\n")
    return 2


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return first_line(error)


if __name__ == "__main__":
    sys.exit(main())
