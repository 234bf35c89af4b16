"""The run folder: what it holds, and how it is opened again."""

from lowerbound.runs.run import Run, load

__all__ = ["Run", "load"]
