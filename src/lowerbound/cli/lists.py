"""``lowerbound recipes`` and ``lowerbound data``: what there is."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from importlib.resources import files

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
    for name, summary in named_sets().items():
        print(f"{name:<20} {summary}")
    print(f"{'FILE.npy, FILE.npz':<20} your own arrays, examples first: (n, ...)")
    print(f"{'FILE.csv, .parquet':<20} your own table of numbers, a row an example")
    print(f"{'FOLDER':<20} your own PNG, JPEG, WebP or TIFF pictures; their sub-folders are labels")


def named_sets() -> dict[str, str]:
    """The data sets that are known by name, and what the module of each says of itself.

    Importing the modules would bring torch, so that they are read as text: a data set is a module
    of ``lowerbound.data`` with a ``read()`` that asks for nothing.

    Example:
        >>> list(named_sets())
        ['cifar10', 'digits', 'fashion_mnist', 'mnist', 'mnist_static']
    """
    modules = {
        path.name.removesuffix(".py"): ast.parse(path.read_text("utf-8"))
        for path in files("lowerbound").joinpath("data").iterdir()
        if path.name.endswith(".py")
    }
    return {
        name: (ast.get_docstring(module) or "").strip()
        for name, module in sorted(modules.items())
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "read" and not node.args.args
            for node in module.body
        )
    }
