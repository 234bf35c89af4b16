"""Starting a program as several processes on this machine, and watching over them: what
``--devices N`` does.

The processes are told who they are by the variables that torchrun uses, so that they cannot tell
the difference. This one only watches: when one of them dies, it stops the others and says so in one
line, since what the others would say (a lost connection) is a consequence; Ctrl-C and SIGTERM it
hands on to all, once.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from lowerbound.utils.messages import pasted, printable

NOTES = "LOWERBOUND_NOTES"  # names the folder for what the processes leave for the one that watches
WATCHER = "LOWERBOUND_WATCHER"  # says which process that is
ORDERLY = (
    2,
    130,
)  # bad input, and having been interrupted: all processes end so, and the first one says why
GONE = 75  # of a process that ended because another had, which is not the one to blame
PATIENCE = 20.0  # seconds for the others to end in order
LOOPBACK = "127.0.0.1"
GRACE = 5.0  # seconds between asking a process to end and ending it


def launch(module: str, argv: Sequence[str], count: int) -> int:
    """Run ``python -m module argv`` as so many processes, and wait for all of them.

    Returns:
        The exit code of the first that failed, or 0; 1 for one that was killed.

    Raises:
        ValueError: torch was built without what processes talk through.
    """
    if not torch.distributed.is_available():
        raise ValueError(
            "this torch was built without torch.distributed, which several processes need; use "
            "devices 1"
        )
    with ExitStack() as stack:
        notes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = stack.enter_context(meeting_point())
        shared = {
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": "lowerbound",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            NOTES: str(notes),
            WATCHER: str(os.getpid()),
        }
        # as many threads as one process would have had, divided among them; and no way through the
        # network to a neighbour
        defaults = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
        interface = {"linux": "lo", "darwin": "lo0"}.get(sys.platform)
        if interface is not None:
            defaults |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
        workers = []
        for rank in range(count):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            said = None if rank == 0 else stack.enter_context((notes / f"stderr-{rank}").open("wb"))
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", module, *argv],
                    env={**defaults, **os.environ, **shared, **ranks},
                    stdout=None if rank == 0 else subprocess.DEVNULL,
                    stderr=said,
                    # Ctrl-C reaches them through this process alone, and so once
                    start_new_session=True,
                )
            )
        stack.callback(_end, workers)
        with _handed_on(workers):
            failed = _first_failure(workers)
        if failed is None:
            return 0
        _end(workers)
        code = workers[failed].returncode
        if code in ORDERLY and workers[0].returncode == code:
            return int(code)  # it has said why
        story = _story(failed, count, code, notes)
        sys.stderr.write(f"lowerbound: error: {printable(story)}\n")
        return int(code) if code in ORDERLY else 1


@contextmanager
def meeting_point() -> Iterator[int]:
    """A block in which processes of this machine can meet: the port of a store.

    The port is one that the system chose, and that nobody else can have taken meanwhile. It is
    bound to the loopback interface: left to itself the store listens on every interface, and
    whoever reaches it may write what the processes believe.
    """
    # torch.distributed does not say that it is there
    from torch._C._distributed_c10d import TCPStore

    with socket.socket() as listening:
        listening.bind((LOOPBACK, 0))
        listening.listen()
        port = listening.getsockname()[1]
        store = TCPStore(
            LOOPBACK,
            port,
            is_master=True,
            wait_for_workers=False,
            # the store takes the descriptor over, and closes it
            master_listen_fd=listening.detach(),
        )
    yield port
    del store  # which has listened until here


def is_watched() -> bool:
    """Whether this process was started by :func:`launch`, which will say what has happened."""
    return NOTES in os.environ


def is_orphan() -> bool:
    """Whether the process that watched over this one is gone, so that nobody would hear of it."""
    return is_watched() and os.environ[WATCHER] != str(os.getppid())


def leave_note(run: Path) -> None:
    """Tell the process that watches where the run is, for what it says should one process die."""
    if is_watched():
        Path(os.environ[NOTES], "run").write_text(str(run), "utf-8")


def _first_failure(workers: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Wait until all have ended; or one has failed, and the others have had time to end in
    order.
    """
    failed: int | None = None
    until = 0.0
    while True:
        codes = [worker.poll() for worker in workers]
        bad = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        # one that found another gone is not the one that failed
        first = next((rank for rank in bad if codes[rank] != GONE), None)
        if bad and until == 0.0:
            until = time.monotonic() + (PATIENCE if codes[bad[0]] in (*ORDERLY, GONE) else 1.0)
        failed = failed if failed is not None else first
        if all(code is not None for code in codes) or (bad and time.monotonic() > until):
            return failed if failed is not None else next(iter(bad), None)
        time.sleep(0.05)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask those that are left to end, and then end them."""
    for worker in workers:
        if worker.poll() is None:
            worker.terminate()
    until = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


@contextmanager
def _handed_on(workers: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Hand on to all processes what asks this one to stop."""

    def hand_on(number: int, frame: Any) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _story(failed: int, count: int, code: int, notes: Path) -> str:
    """What has happened, in one line."""
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    said = ""
    if failed and (
        lines := (notes / f"stderr-{failed}").read_text("utf-8", "replace").strip().splitlines()
    ):
        said = f" ({lines[-1].removeprefix('lowerbound: error: ')})"
    note = notes / "run"
    again = ""
    if note.is_file():
        again = f"; go on with: lowerbound train --resume --out {pasted(note.read_text('utf-8'))}"
    return f"process {failed} of {count} {how}{said}, and the others were stopped{again}"
