"""``recipes`` and ``data``."""

from __future__ import annotations

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
