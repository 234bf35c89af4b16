"""``lowerbound recipes`` and ``lowerbound data``: what there is."""

from __future__ import annotations

from collections.abc import Sequence

from lowerbound.config.recipes import about, recipe_names, recipe_text
from lowerbound.config.settings import SettingsParser


def recipes(argv: Sequence[str]) -> None:
    """List the shipped recipes, or print one."""
    parser = _parser(
        "recipes [NAME]",
        "List the shipped recipes, or print one; use it with lowerbound train --config NAME.",
    )
    parser.add_argument(
        "name", nargs="?", type=str, metavar="NAME", help="print this recipe's file"
    )
    given = parser.read(argv)
    if given["name"]:
        print(recipe_text(given["name"]), end="")
        return
    for recipe in recipe_names():
        print(f"{recipe:<20} {about(recipe)}")


def data(argv: Sequence[str]) -> None:
    """List the data sets that are known by name."""
    parser = _parser("data", "List the data sets that are known by name.")
    parser.read(argv)
    from lowerbound.data import NAMED

    for name, module in NAMED.items():
        print(f"{name:<20} {(module.__doc__ or '').strip()}")
    print(f"{'FILE.npy, FILE.npz':<20} your own arrays, examples first: (n, ...)")
    print(f"{'FILE.csv, .parquet':<20} your own table of numbers, a row an example")
    print(f"{'FOLDER':<20} your own PNG, JPEG or WebP pictures; their sub-folders are labels")


def _parser(usage: str, description: str) -> SettingsParser:
    parser = SettingsParser(usage=f"lowerbound {usage}", description=description)
    parser.add_argument("-h", "--help", action="store_true", help="show this help")
    return parser
