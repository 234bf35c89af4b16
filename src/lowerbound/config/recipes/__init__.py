"""Recipes: published models as configuration files, each with its paper, its protocol and the
published number.
"""

from __future__ import annotations

from importlib.resources import files

from lowerbound.config.settings import read_yaml
from lowerbound.utils.messages import unknown


def recipe_names() -> list[str]:
    """The shipped recipes.

    Example:
        >>> "notebook-mlp" in recipe_names()
        True
    """
    names = (entry.name for entry in files(__package__).iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """A recipe's file.

    Raises:
        ValueError: there is no recipe of that name.
    """
    if name not in recipe_names():
        raise ValueError(f"{unknown('recipe', name, recipe_names())}; a file's name ends in .yaml")
    return files(__package__).joinpath(f"{name}.yaml").read_text("utf-8")


def about(name: str) -> str:
    """What a recipe says of itself in one line."""
    return str(read_yaml(recipe_text(name), name)["about"]["title"])
