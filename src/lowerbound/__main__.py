"""``python -m lowerbound`` is the command ``lowerbound``."""

import sys

from lowerbound.cli import main

sys.exit(main())
