"""``lowerbound recipes`` and ``lowerbound data``: what there is."""

from __future__ import annotations

from collections.abc import Sequence

from lowerbound.config.options import Options
from lowerbound.config.recipes import about, recipe_names, recipe_text


def recipes(argv: Sequence[str]) -> None:
    """List the shipped recipes, or print one."""
    options = Options(
        "lowerbound recipes [NAME]",
        "List the shipped recipes, or print one; use it with lowerbound train --config NAME.",
    )
    options.add_positional("name", "NAME", "print this recipe's file")
    if name := options.read(argv)["name"]:
        print(recipe_text(name), end="")
        return
    for recipe in recipe_names():
        print(f"{recipe:<20} {about(recipe)}")


def data(argv: Sequence[str]) -> None:
    """List the data sets that are known by name."""
    Options("lowerbound data", "List the data sets that are known by name.").read(argv)
    from lowerbound.data import NAMED

    for name, module in NAMED.items():
        print(f"{name:<20} {(module.__doc__ or '').strip()}")
    print(f"{'FILE.npy, FILE.npz':<20} your own arrays, examples first: (n, ...)")
    print(f"{'FILE.csv, .parquet':<20} your own table of numbers, a row an example")
    print(f"{'FOLDER':<20} your own PNG, JPEG or WebP pictures; their sub-folders are labels")
