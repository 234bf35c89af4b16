"""``python -m lowerbound`` is the command ``lowerbound``."""

import os
import sys

from lowerbound.cli import main

if __name__ == "__main__":
    code = main()
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from lowerbound.parallel.processes import leave  # and so torch, which help does without

        leave(code)
    sys.exit(code)
