"""Options: a command line is taken apart once, and what is wrong with it is one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import lowerbound.cli.train
from lowerbound.cli import main
from lowerbound.config.options import CommandLine, Options
from lowerbound.config.settings import REQUIRED, Setting

KNOWN = {
    name: Setting(name, hint, None, "")
    for name, hint in {"epochs": int, "compile": bool, "help": bool, "out": str}.items()
}


@pytest.mark.parametrize(
    ("argv", "positional", "options"),
    [
        ([], [], {}),
        (["digits", "--epochs", "3"], ["digits"], {"epochs": 3}),
        (["--epochs=3", "digits"], ["digits"], {"epochs": 3}),
        (["--epochs", "3", "--epochs", "4"], [], {"epochs": 4}),
        (["--compile", "digits"], ["digits"], {"compile": True}),
        (["--compile", "false", "digits"], ["digits"], {"compile": False}),
        (["--compile=false"], [], {"compile": False}),
        (["--out", "-"], [], {"out": "-"}),
        (["--out="], [], {"out": ""}),
        (["-h"], [], {"help": True}),
        (["a=b", "c"], ["a=b", "c"], {}),
        (["--prior.part", "Normal"], [], {"prior": "Normal"}),
        (["--posterior.network.batch-norm"], [], {"posterior.network.batch_norm": True}),
        (["--objective.beta", "-1", "x"], ["x"], {"objective.beta": "-1"}),
    ],
)
def test_a_command_line_is_taken_apart(
    argv: Sequence[str], positional: Sequence[str], options: Mapping[str, Any]
) -> None:
    assert CommandLine.of(argv, KNOWN) == CommandLine(positional, options)


def test_options_find_their_settings() -> None:
    settings = [
        Setting("prior.part", str, "Normal", ""),
        Setting("groups.my-own.scale", float, 1.0, ""),
        Setting("prior.is_full", bool, False, ""),
    ]
    line = CommandLine.of(["--prior", "X", "--groups.my-own.scale", "2", "--prior.is-full"], {})
    assert line.named(settings) == {
        "prior.part": "X",
        "groups.my-own.scale": 2.0,
        "prior.is_full": True,
    }
    with pytest.raises(ValueError, match=r"unknown option --prior.ful; did you mean --prior"):
        CommandLine.of(["--prior.ful", "2"], {}).named(settings)
    with pytest.raises(ValueError, match=r"--groups.my-own.scale needs a value \(see --help\)"):
        CommandLine.of(["--groups.my-own.scale"], {}).named(settings)


def some_options() -> Options:
    options = Options("lowerbound weigh RUN [RUN ...]", "Weigh runs, 100% of them.")
    options.add_positional("run", "RUN", "the first", REQUIRED)
    options.add_positional("others", "RUN", "the others", [])
    options.add("n", int, "how many")
    options.add("samples", int, "K, 50% more", 100)
    options.add("json", bool, "print JSON", False)
    options.add("dimensions", list[int], "which")
    return options


def test_a_command_reads_its_arguments() -> None:
    assert some_options().read(["a", "-n", "3", "b", "--json", "c"]) == {
        "run": "a",
        "others": ["b", "c"],
        "help": False,
        "n": 3,
        "samples": 100,
        "json": True,
        "dimensions": None,
    }
    for argv, message in (
        ([], r"missing: RUN \(see --help\)"),
        (["a", "-n", "x"], "-n: expected one of int, null, not 'x'"),
        (["a", "-n"], r"-n needs a value \(see --help\)"),
        (["a", "--sampels", "3"], "did you mean --samples"),
    ):
        with pytest.raises(ValueError, match=message):
            some_options().read(argv)


def test_help_comes_first_and_says_types_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        some_options().read(["--sampels", "3", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    for text in (
        "usage: lowerbound weigh RUN [RUN ...] Weigh runs, 100% of them.",
        "-h, --help show this help",
        "-n N how many (type: int)",
        "--samples SAMPLES K, 50% more (type: int, default: 100)",
        "--json print JSON",
        "--dimensions [ITEM,...] which (type: list[int])",
    ):
        assert text in words


class ReachedError(Exception):
    """Ends a command where it would begin to work."""


def configured(monkeypatch: pytest.MonkeyPatch, *argv: str) -> dict[str, Any]:
    """What ``lowerbound train`` would build."""
    configs: list[dict[str, Any]] = []

    def build(config: dict[str, Any], *_: object) -> None:
        configs.append(config)
        raise ReachedError

    monkeypatch.setattr(lowerbound.cli.train, "build_model", build)
    with pytest.raises(ReachedError):
        main(["train", *argv])
    return configs[0]


def test_a_training_needs_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert configured(monkeypatch)["likelihood"]["levels"] == 17


def test_the_command_line_overrides_a_file_and_a_file_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(
        "prior: {part: Mixture, components: 3}\n"
        "posterior: {part: DiagonalNormal, network: {part: MLP, hidden: [9], batch_norm: true}}\n"
        "learning_rate: 1e-2\nclip: 5\ncompile: true\n"
    )
    file = ("--config", str(tmp_path / "a.yaml"))
    config = configured(monkeypatch, *file)
    assert (config["learning_rate"], config["clip"], config["compile"]) == (0.01, 5.0, True)
    config = configured(
        monkeypatch, *file, "--clip", "null", "--compile", "false", "--prior", "Normal",
        "--posterior.network.hidden", "[4, 5]",
    )  # fmt: skip
    assert (config["learning_rate"], config["clip"], config["compile"]) == (0.01, None, False)
    assert config["prior"] == {"part": "Normal", "covariance": "diagonal"}  # no components
    assert config["posterior"]["network"] == {
        "part": "MLP", "hidden": [4, 5], "activation": "ReLU", "batch_norm": True,
    }  # fmt: skip
