"""Pictures of a trained model: ``report``, ``traverse``, ``interpolate``, ``manifold``."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command


def test_looking_at_a_model(trained: Path, command: Command) -> None:
    for argv in (
        ("traverse", trained, "--out", "t.png"),
        ("traverse", trained, "--dimensions", "[0, 2]", "--steps", 5, "--out", "d.png"),
        ("interpolate", trained, "-n", 3, "--out", "i.png"),
        ("report", trained),
    ):
        code, _, err = command(*argv)
        assert code == 0, err
    with Image.open("d.png") as image:
        assert image.size[0] > 2 * image.size[1]
    assert (
        command("train", "--latent", 2, "--epochs", 1, "--out", "plane", "--quiet", "--no-report")[
            0
        ]
        == 0
    )
    assert not Path("plane/report.html").exists()
    assert command("manifold", "plane", "--side", 5, "--out", "m.png")[0] == 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("manifold", "--out", "a.png"), "here there are 4"),
        (("traverse", "--out", "a.png", "--dimensions", "[9]"), "no latent dimension 9"),
        (("traverse", "--out", "a.png", "--example", "999"), "no example 999"),
        (("traverse", "--out", "a.png", "--steps", "1"), "at least 2"),
        (("traverse",), "say which file"),
        (("interpolate", "--out", "a.npy"), "must end in .png"),
        (("interpolate", "--out", "a.png", "-n", "0"), "from 1 to 90"),
    ],
)
def test_looking_wrongly(
    argv: tuple[str, ...], message: str, trained: Path, command: Command
) -> None:
    code, _, err = command(argv[0], trained, *argv[1:])
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(Path().glob("a.*"))
