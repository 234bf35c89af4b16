"""``recipes`` and ``data``."""

from __future__ import annotations

from lowerbound.cli.lists import named_sets
from lowerbound.data import NAMED
from tests.cli.conftest import Command


def test_lists(command: Command) -> None:
    assert "notebook-mlp" in command("recipes")[1]
    out = command("data")[1]
    for name in (
        "cifar10",
        "digits",
        "mnist",
        "mnist_static",
        "fashion_mnist",
        "FILE.csv",
        "FOLDER",
    ):
        assert name in out


def test_the_sets_that_are_listed_without_importing_them_are_those_that_can_be_loaded() -> None:
    assert named_sets() == {name: (module.__doc__ or "").strip() for name, module in NAMED.items()}
