"""Cells that a spreadsheet would run: text from somebody else's file that begins with =, +, - or @.

A class named ``=HYPERLINK(...)`` in a table that was trained on comes out again where examples are
written as .csv, and whoever opens that in a spreadsheet runs it (OWASP, "CSV injection"). Quotes
around a cell change nothing: a spreadsheet takes them off first. An apostrophe before it makes it
text in all of them, and is seen, so that nobody wonders what has been done.
"""

from __future__ import annotations

STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # the wide ones are read as the narrow ones
APOSTROPHE = "'"


def as_text(cell: str) -> str:
    """A cell as text, where a spreadsheet would run it; numbers, and all other cells, as they are.

    Example:
        >>> [as_text(cell) for cell in ("=1+1", "-1.5", "@SUM(A1)", "rose", "+1e-3", " -x")]
        ["'=1+1", '-1.5', "'@SUM(A1)", 'rose', '+1e-3', "' -x"]
    """
    # what stands before may be dropped: blanks, tabs, line ends
    if not cell.lstrip().startswith(STARTS):
        return cell
    try:
        float(cell)
    except ValueError:
        return APOSTROPHE + cell
    return cell
