"""Settings: what a value of each type may be, in a file and on the command line, and where its help
comes from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

import lowerbound
from lowerbound.cli import main
from lowerbound.config.settings import (
    REQUIRED,
    Setting,
    argument_docs,
    as_option,
    as_yaml,
    read_yaml,
    resolve,
    settings_of,
)

Scale = float | Literal["shared", "network"]
Shapes = int | list[int | list[int]]


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, "3", 3),
        (int, 3, 3),
        (float, "1e-4", 1e-4),
        (float, 2, 2.0),
        (bool, "true", True),
        (bool, False, False),
        (str, "3", "3"),
        (str, "a: b", "a: b"),
        (str, "", ""),
        (str, "null", "null"),
        (str | None, "null", None),
        (str | None, "#1", "#1"),
        (float | None, "null", None),
        (float | None, "None", None),
        (Literal["a", "b"], "b", "b"),
        (Literal["none"] | int | None, "none", "none"),
        (Scale, "0.5", 0.5),
        (Scale, "network", "network"),
        (Sequence[int], "[64, 64]", [64, 64]),
        (Sequence[int], (1, 2), [1, 2]),
        (Sequence[float], ["1e-4", 1], [1e-4, 1.0]),
        (Sequence[str] | None, "[species, size=s|l]", ["species", "size=s|l"]),
        (tuple[float, float], "[0.5, 0.9]", [0.5, 0.9]),
        (Shapes, "[32, [4, 8]]", [32, [4, 8]]),
        (Shapes, "7", 7),
    ],
)
def test_a_value_is_read_by_its_type(hint: Any, value: Any, expected: Any) -> None:
    read = Setting("x", hint, None, "").read(value)
    assert read == expected
    assert type(read) is type(expected)
    assert Setting("x", hint, None, "").read(read) == expected  # what is read can be read again


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (int, "1.5", "int, not '1.5'"),
        (int, True, "int, not True"),
        (int, None, "int, not null"),
        (float, "big", "float, not 'big'"),
        (float, True, "float, not True"),
        (bool, "maybe", "bool, not 'maybe'"),
        (bool, 1, "bool, not 1"),
        (str, 3, "str, not 3"),
        (Literal["a", "b"], "c", "one of 'a', 'b', not 'c'"),
        (Scale, "big", "one of float, 'shared', 'network', not 'big'"),
        (Sequence[int], "3", "list[int], not '3'"),
        (Sequence[int], "[3, x]", "list[int], not '[3, x]'"),
        (Sequence[str] | None, "c", "one of list[str], null, not 'c'"),
        (tuple[float, float], [0.5], "list[float, float], not [0.5]"),
        (Shapes, "[", "one of int, list[int | list[int]], not '['"),
        (Shapes, "a: b: c", "one of int, list[int | list[int]], not 'a: b: c'"),
        (int, "!!python/name:os.system", "int, not '!!python/name:os.system'"),
    ],
)
def test_a_value_of_another_type_is_one_line(hint: Any, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match="--a.x-y: expected") as error:
        Setting("a.x_y", hint, None, "").read(value)
    assert str(error.value) == f"--a.x-y: expected {expected}"


def test_only_plain_data_can_be_set() -> None:
    for hint in (Callable[[], int], Any, dict[str, int], list, type):
        with pytest.raises(ValueError, match="--a.x cannot be set from a file"):
            as_option(Setting("x", hint, None, ""), "a.")


def test_what_has_no_default_may_be_left_out() -> None:
    option = as_option(Setting("levels", int, REQUIRED, ""), "likelihood.")
    assert resolve([option], {}) == {"likelihood": {"levels": None}}
    assert resolve([option], {"likelihood": {"levels": "5"}}) == {"likelihood": {"levels": 5}}


class Role:
    """A role.

    Args:
        condition: what is known
            beside z: None for nothing.
        width: of the role.

    Attributes:
        free: no argument.
    """


class Part(Role):
    """A part: of two paragraphs.

    Args:
        width: of 8 is "8": enough.

            A second paragraph of it.
        depth: how many.

    Raises:
        ValueError: never.

    Example:
        >>> 3
        3
    """

    def __init__(self, width: int, depth: int = 2, condition: int | None = None) -> None: ...


def test_help_is_the_parts_own_docstring_or_its_roles() -> None:
    assert argument_docs(Part) == {
        "condition": "what is known beside z: None for nothing.",
        "width": 'of 8 is "8": enough. A second paragraph of it.',
        "depth": "how many.",
    }
    assert [(s.name, s.hint, s.default, s.help) for s in settings_of(Part)] == [
        ("width", int, REQUIRED, argument_docs(Part)["width"]),
        ("depth", int, 2, "how many."),
        ("condition", int | None, None, argument_docs(Role)["condition"]),
    ]


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine lines that stand for 10^9 values."""


def test_aliases_are_refused_wherever_yaml_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"bomb.yaml is not plain YAML: .*by an alias \(\*a\)"):
        read_yaml(BOMB, "bomb.yaml")
    (tmp_path / "bomb.yaml").write_text(BOMB)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(f"format: 1\n{BOMB}")
    inline = "[&a [1, 1], &b [*a, *a], [*b, *b]]"
    for argv in (
        ["train", "--config", str(tmp_path / "bomb.yaml")],
        ["train", "--resume", "--out", str(run)],
        ["train", "--init", str(run)],
        ["evaluate", str(run)],
        ["train", "--latent", inline],
        ["train", f"--data.categorical={inline}"],
    ):
        assert main(argv) == 2, argv
        err = capsys.readouterr().err
        assert "by an alias (*a); write it out" in err
        assert err.count("\n") == 1


def test_no_other_reader_of_yaml_is_used() -> None:
    """Whoever read YAML by pyyaml's own loaders would follow aliases."""
    root = Path(lowerbound.__file__).parent
    assert not [p for p in root.rglob("*.py") if "yaml.safe_load" in p.read_text()]


def test_a_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="'latent' stands twice in one mapping"):
        read_yaml("latent: 2\nepochs: 3\nlatent: 4\n", "c.yaml")


@pytest.mark.parametrize(
    "text",
    ["a: !!int ''", "a: !!timestamp x", "a: !!bool x", "a: 2026-13-01", "[" * 5000, "a: b: c"],
)
def test_damaged_yaml_is_told_with_the_file(text: str) -> None:
    with pytest.raises(ValueError, match=r"c.yaml is not plain YAML: ") as error:
        read_yaml(text, "c.yaml")
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_though_values_are_shared() -> None:
    shared = [8, 8]
    content = {"encoder": {"hidden": shared}, "decoder": {"hidden": shared}}
    assert read_yaml(as_yaml(content), "c.yaml") == content
