"""report.html: everything about a run, in one file that opens from disk."""

from lowerbound.report.page import write_report

__all__ = ["write_report"]
