"""The contestants' environment: .bench/contestants, made at first use from
contestants/requirements.txt.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".bench" / "contestants"
CONTESTANTS = Path(__file__).resolve().parent / "contestants"
REQUIREMENTS = CONTESTANTS / "requirements.txt"
CONSTRAINTS = ROOT / "constraints.txt"


def install() -> Path:
    """The python of an environment that holds the contestants."""
    python, done = HOME / "bin" / "python", HOME / "installed"
    wanted = REQUIREMENTS.read_text() + CONSTRAINTS.read_text()
    if not (done.is_file() and done.read_text() == wanted):
        print(
            f"installing {REQUIREMENTS.relative_to(ROOT)} into {HOME.relative_to(ROOT)}",
            file=sys.stderr,
        )
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
        # the constraints hold torch and numpy to the versions that lowerbound is tested with: the
        # same arithmetic for all
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, "-r", REQUIREMENTS],
            check=True,
        )
        done.write_text(wanted)
    return python


if __name__ == "__main__":
    print(install())
