"""``lowerbound recipes`` and ``lowerbound data``: what there is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lowerbound.recipes import about, recipe_names, recipe_text


def recipes(argv: Sequence[str]) -> None:
    """List the shipped recipes, or print one."""
    parser = argparse.ArgumentParser(
        prog="lowerbound recipes", description="List the shipped recipes; use one with lowerbound train --config NAME."
    )
    parser.add_argument("name", nargs="?", help="print this recipe's file")
    name = parser.parse_args(argv).name
    if name:
        print(recipe_text(name), end="")
        return
    for recipe in recipe_names():
        print(f"{recipe:<20} {about(recipe)}")


def data(argv: Sequence[str]) -> None:
    """List the data sets that are known by name."""
    argparse.ArgumentParser(
        prog="lowerbound data",
        description="List the data sets that are known by name. Your own data are read from .npy and .npz files.",
    ).parse_args(argv)
    from lowerbound.data import NAMED

    for name, module in NAMED.items():
        print(f"{name:<20} {(module.__doc__ or '').strip()}")
    print(f"{'FILE.npy, FILE.npz':<20} your own arrays, examples first: (n, ...)")
