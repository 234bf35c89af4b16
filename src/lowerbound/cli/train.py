"""``lowerbound train``: from data and settings to a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lowerbound.config.build import (
    add_model_settings,
    build_model,
    build_objective,
    chosen_parts,
    conditioned,
    default_likelihood,
    expanded,
    listed,
    places,
    wiring,
    with_groups,
)
from lowerbound.config.recipes import recipe_text
from lowerbound.config.settings import (
    SettingsParser,
    add_setting,
    read_yaml,
    read_yaml_file,
    settings_of,
)
from lowerbound.data import NAMED, OWN, load
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation.evaluate import SAMPLES, evaluate
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.launch import launch, leave_note
from lowerbound.parallel.processes import check_devices, join, launched
from lowerbound.plots import is_picture, save_figure, sheet
from lowerbound.report.page import write_report
from lowerbound.report.samples import samples_shown
from lowerbound.runs.run import FORMAT, Run
from lowerbound.supports import Levels
from lowerbound.training.fit import fit
from lowerbound.training.settings import Settings, check_settings
from lowerbound.utils.devices import find_device
from lowerbound.utils.seeding import seeded

FLAGS = ("--resume", "--overwrite", "--quiet", "--no-report", "--help", "-h")
NOT_SETTINGS = (
    "model", "objective", "data", "out", "resume", "overwrite", "progress", "callbacks", "logger",
)  # fmt: skip
CONTROL = (
    "source",
    "help",
    "config",
    "out",
    "resume",
    "overwrite",
    "quiet",
    "no_report",
    "samples",
    "trust",
)
DERIVED = (
    "sha256",
    "event_shape",
    "range",
    "columns",
)  # of the data: written for the record, found again from the data
PAIRS = 32  # originals and reconstructions on the sheet, and twice as many samples


@dataclass(frozen=True)
class Words:
    """A command line taken apart, before it is known which options the chosen parts have.

    Args:
        argv: as given.
        data: DATA, or None.
        options: the last value of each option, by its configuration key; "" for a flag.
    """

    argv: Sequence[str]
    data: str | None
    options: Mapping[str, str]

    @classmethod
    def of(cls, argv: Sequence[str]) -> Words:
        """Take a command line apart: every option but the flags has a value."""
        positional: list[str] = []
        options: dict[str, str] = {}
        argv = _switched(argv)
        rest = list(argv)
        while rest:
            token = rest.pop(0)
            name, equals, value = token.partition("=")
            key = name.lstrip("-").replace("-", "_").removesuffix(".part")
            if token in FLAGS:
                options[key] = ""
            elif token.startswith("-"):
                options[key] = value if equals else (rest.pop(0) if rest else "")
            else:
                positional.append(token)
        if len(positional) > 1:
            raise ValueError(f"one DATA is expected, not {len(positional)}: {' '.join(positional)}")
        return cls(argv, positional[0] if positional else None, options)

    @property
    def asks_for_help(self) -> bool:
        """Whether --help or -h is among them."""
        return "help" in self.options or "h" in self.options

    @property
    def wiring(self) -> dict[str, Any]:
        """The size of the latents and the model's own settings, from which follows how many parts
        it has.
        """
        told = {
            key.removeprefix("model."): value
            for key, value in self.options.items()
            if key.startswith("model.")
        }
        told |= {"latent": self.options["latent"]} if "latent" in self.options else {}
        return {key: yaml.safe_load(value) for key, value in told.items()}

    @property
    def trust(self) -> list[str]:
        """Packages that are trusted by name."""
        return [name.strip() for name in self.options.get("trust", "").split(",") if name.strip()]


def _switched(argv: Sequence[str]) -> list[str]:
    """The same words, where --compile stands for --compile=true, and so does any setting of fit
    that is on or off.
    """
    switches = [
        f"--{s.name}" for s in settings_of(fit) if s.hint is bool and s.name not in NOT_SETTINGS
    ]
    follows = [*argv[1:], ""]
    return [
        f"{word}=true" if word in switches and after.lower() not in ("true", "false") else word
        for word, after in zip(argv, follows, strict=True)
    ]


def train(argv: Sequence[str]) -> int:
    """Train a model, evaluate it on the test split, and write it all into a run folder."""
    words = Words.of(argv)
    base = _base_config(words)
    if words.asks_for_help:
        print(_parser(words, base, None).format_help())
        return 0
    world = launched()
    if world.size > 1 and "devices" not in words.options:
        base.pop(
            "devices", None
        )  # a configuration says how many there were; now there are those that were started
    asked = _devices(words, base)
    if asked > 1 and world.size == 1:
        return launch("lowerbound", ["train", *argv], asked)
    with join().one_goes_ahead():
        data = _load_data(words, base.pop("data", {}))
    if "likelihood" not in {*base, *words.options}:
        base["likelihood"] = default_likelihood(data.support, data.event_shape)
    if isinstance(base.get("likelihood"), Mapping) or "likelihood" in words.options:
        before = base.get("likelihood", {})
        chosen = words.options.get("likelihood", before.get("part"))
        base["likelihood"] = with_groups(
            before if before.get("part") == chosen else {"part": chosen}, data, words.trust
        )
    config = _resolve(_parser(words, base, data), base, words)
    control = {key: config.pop(key) for key in CONTROL}
    config.pop("data")
    config = conditioned(config, data.condition, data.name or "the data")
    settings = {s.name: config[s.name] for s in settings_of(fit) if s.name not in NOT_SETTINGS}

    check_settings(Settings(**settings), data)
    if control["samples"] < 1:
        raise ValueError(
            f"samples is {control['samples']}: at least 1 draw for each example is needed"
        )
    with seeded(settings["seed"]):
        model = build_model(config, data.event_shape, words.trust)
        objective = build_objective(
            config, words.trust
        )  # it may have weights of its own, behind the model's
    model.check_data(data)
    run = Run(
        world.broadcast(lambda: _next_folder(data)) if control["out"] is None else control["out"]
    )
    say: Callable[[str], object] = (
        print if world.is_first and not control["quiet"] else lambda text: None
    )
    with ExitStack() as stack:
        world.broadcast(lambda: _held(stack, run, control))
        say(_summary(config, data, model, run, words))
        how = {key: control[key] for key in ("resume", "overwrite")}
        leave_note(run.path)
        history = fit(
            model, objective, data, **settings, out=run, **how, progress=not control["quiet"]
        )
        chosen = "the best on validation" if "valid" in data.splits else "the last"
        say(f"\nthe weights are those of epoch {history.best_epoch}, {chosen}")
        _conclude(
            run,
            model,
            objective,
            data,
            control["samples"],
            not control["no_report"],
            say,
            world.is_first,
        )
    return 0


def _held(stack: ExitStack, run: Run, control: Mapping[str, Any]) -> None:
    """Hold the run folder until the end, if it is free for what is to be done."""
    stack.enter_context(run.locked())
    run.check_free(control["resume"], control["overwrite"])


def _devices(words: Words, base: Mapping[str, Any]) -> int:
    """How many processes are asked for, after a check that needs no data: nobody waits for them to
    start in vain.
    """
    given = {
        key: yaml.safe_load(words.options[key])
        for key in ("devices", "device")
        if words.options.get(key)
    }
    given = {"devices": base.get("devices"), "device": base.get("device", "auto")} | given
    check_devices(given["devices"], find_device(str(given["device"])), launched(), may_start=True)
    return given["devices"] or 1


def _base_config(words: Words) -> dict[str, Any]:
    """The configuration that a run starts from: of the run that is resumed, a recipe, a file, or
    nothing.
    """
    if "resume" in words.options:
        if not words.options.get("out"):
            raise ValueError("say which run to resume: lowerbound train --resume --out RUN")
        if "config" in words.options:
            raise ValueError(
                "a run is resumed with its own configuration: leave out --config, or start a new "
                "folder"
            )
        config = Run(words.options["out"]).config()
    elif "config" in words.options:
        name = words.options["config"]
        is_file = Path(name).suffix in (".yaml", ".yml")
        config = read_yaml_file(Path(name)) if is_file else read_yaml(recipe_text(name), name)
    else:
        return {}
    version = config.pop("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(
            f"the configuration is of format {version!r}, and this lowerbound reads up to {FORMAT}"
        )
    config.pop("about", None)
    if mixed := sorted(config.keys() & set(CONTROL)):
        raise ValueError(
            f"{mixed[0]} belongs on the command line (--{mixed[0].replace('_', '-')}), not in a "
            "configuration"
        )
    config = _other_model(config, words)
    config = expanded(config, words.wiring, words.trust)
    if isinstance(config.get("data"), str):
        config["data"] = {"name": config["data"]}
    if not isinstance(config.get("data", {}), Mapping):
        raise ValueError("data in the configuration must be a name, or a mapping with a name")
    return config


def _other_model(config: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """A configuration without what only its own model has, where the command line names another
    one.
    """
    own = config.get("model", {})
    name = own if isinstance(own, str) else own.get("part")
    if words.options.get("model") in (None, name):
        return dict(config)
    before = places({} if name is None else {"model": name}, words.trust)
    gone = before.keys() - places(words.options, words.trust).keys() | {"model", "latent"}
    return {
        **{key: value for key, value in config.items() if key not in gone},
        "model": words.options["model"],
    }


def _load_data(words: Words, given: Mapping[str, Any]) -> Dataset:
    """The data that are named: DATA, or those of the configuration with its options, or the
    digits.
    """
    own = {key: value for key, value in given.items() if key not in (*DERIVED, "name")}
    if words.data is not None and given.get("name") not in (
        words.data,
        str(Path(words.data).expanduser().resolve()),
    ):
        own = {}  # other data than the configuration's have no use for its options
    parser = SettingsParser()
    for setting in settings_of(load)[1:]:
        add_setting(parser, f"data.{setting.name}", setting)
    changes = parser.parse_args(
        [f"--{k}={v}" for k, v in words.options.items() if k.startswith("data.")], defaults=False
    )
    options = parser.parse_object(_merged({"data": own}, changes.as_dict())).as_dict()["data"]
    source = words.data or given.get("name", "digits")
    if source is None:
        raise ValueError(
            "this configuration was trained on arrays in memory, which no file names: give DATA"
        )
    data = load(source, **options)
    unchanged = words.data is None and not changes.as_dict()
    if unchanged and given.get("sha256") not in (None, data.sha256):
        raise ValueError(
            f"{source} holds other data than when this configuration was written (its SHA-256 "
            f"differs); to train on it all the same, name it: lowerbound train {source} --config "
            "..."
        )
    return data


def _parser(words: Words, base: Mapping[str, Any], data: Dataset | None) -> SettingsParser:
    """Every option that this call may use, with the chosen parts' own settings."""
    support = data.support if data else Levels(17)  # help shows what holds for the bundled digits
    chosen = chosen_parts(base) | dict(
        words.options
    )  # of which only those are looked at that name a part
    parser = SettingsParser()
    parser.usage = "lowerbound train [DATA] [options]"
    parser.description = (
        "Train a model, evaluate it on held-out data, and write a run folder. DATA is the name of "
        "a data set (digits, the default, or another that 'lowerbound data' lists) or the path of "
        f"a {OWN}. Parts are chosen by name, and every argument of a part's constructor is an "
        "option: the settings below are those of the parts chosen in this call, so 'lowerbound "
        "train --likelihood Normal --help' shows a normal likelihood's."
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=str,
        metavar="DATA",
        help="name, file or folder; digits by default",
    )
    group = parser.add_argument_group("the run")
    group.add_argument("-h", "--help", action="store_true", help="show this help")
    group.add_argument(
        "--config", type=str, help="a shipped recipe's name (lowerbound recipes), or a .yaml file"
    )
    group.add_argument("--out", type=str, help="run folder to write (default: runs/DATA-N)")
    group.add_argument(
        "--resume", action="store_true", help="go on with the run in --out from its last checkpoint"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument("--no-report", action="store_true", help="leave out report.html at the end")
    group.add_argument(
        "--samples",
        type=int,
        default=SAMPLES,
        help="importance samples in the evaluation at the end",
    )
    group.add_argument(
        "--trust", type=str, help="packages, by name, whose parts may be imported: a,b"
    )
    training = parser.add_argument_group("training")
    for setting in settings_of(fit):
        if setting.name not in NOT_SETTINGS:
            add_setting(training, setting.name, setting)
    loading = parser.add_argument_group("data")
    for setting in settings_of(load)[1:]:
        add_setting(loading, f"data.{setting.name}", setting)
    add_model_settings(parser, chosen, support, wiring(base) | words.wiring, words.trust)
    return parser


def _resolve(parser: SettingsParser, base: Mapping[str, Any], words: Words) -> dict[str, Any]:
    """Defaults, overridden by the configuration, overridden by options."""
    changes = parser.parse_args(words.argv, defaults=False).as_dict()
    return dict(parser.parse_object(_merged(base, changes)).as_dict())


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Both, the changes first; another part than before has other settings, so that nothing is left
    of the one before.
    """
    both = {
        key: _merged(base[key], changes[key])
        if isinstance(base[key], Mapping)
        and changes[key].get("part") in (None, base[key].get("part"))
        else changes[key]
        for key in base.keys() & changes.keys()
    }
    return {**base, **changes, **both}


def _next_folder(data: Dataset) -> Path:
    stem = data.name if data.name in NAMED else Path(data.name or "data").stem
    number = 1
    while Path("runs", f"{stem}-{number}").exists():
        number += 1
    return Path("runs", f"{stem}-{number}")


def _summary(config: Mapping[str, Any], data: Dataset, model: Model, run: Run, words: Words) -> str:
    """What is about to be trained, in lines that a person can check."""
    count = sum(p.numel() for p in model.parameters())
    kept = places(chosen_parts(config), words.trust)
    shown = listed({key: config[key] for key in ("latent", *kept) if key in config})
    if shown["model"] == {"part": "VAE"}:
        del shown["model"]  # what is understood where none is named
    parts = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=110).rstrip()
    body = "\n".join("  " + line for line in parts.splitlines())
    return f"data: {data}\nmodel: {count:,} parameters\n{body}\nrun: {run.path}"


def _conclude(
    run: Run,
    model: Model,
    objective: Objective,
    data: Dataset,
    samples: int,
    report: bool,
    say: Callable[[str], object],
    writes: bool,
) -> None:
    """Evaluate on held-out data, draw the sheet, and say where to look."""
    curve = model.likelihood.is_density
    evaluation = evaluate(model, data, "test", samples, objective=objective, curve=curve)
    if not writes:
        return
    run.write_evaluation(evaluation.as_json())
    lines = [
        f"{evaluation.n:,} held-out examples (test):",
        str(evaluation),
        f"\nrun folder    {run.path}",
    ]
    if is_picture(data.event_shape):
        x, context = data.examples("test", PAIRS), data.context("test")[:PAIRS]
        drawn, words = samples_shown(model, data, "test", rows=2 * PAIRS // 16, columns=16)
        parts = ", ".join(f"{slot} {type(part).__name__}" for slot, part in model.parts.items())
        title = f"{Path(data.name or 'data').stem}: {parts}"
        again = model.reconstruct(x, context).cpu()
        save_figure(run.sheet_file, sheet(x, again, drawn, data.range, title, words))
        lines.append(f"pictures      {run.sheet_file}")
    if report:
        lines.append(f"report        {write_report(run, model, data, evaluation.as_json())}")
    say(
        "\n".join(
            [
                *lines,
                f"again         lowerbound evaluate {shlex.quote(str(run.path))} --samples 5000",
            ]
        )
    )
