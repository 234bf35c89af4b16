"""``lowerbound train``: from data and settings to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lowerbound.build import (
    add_model_settings,
    build_model,
    build_objective,
    chosen_parts,
    default_parts,
    expanded,
)
from lowerbound.checks import check_data
from lowerbound.data import NAMED, load
from lowerbound.dataset import Dataset
from lowerbound.measure import SAMPLES, evaluate
from lowerbound.parts import SLOTS
from lowerbound.plots import is_picture, save_figure, sheet
from lowerbound.recipes import recipe_text
from lowerbound.run import FORMAT, Run
from lowerbound.seeding import seeded
from lowerbound.settings import SettingsParser, add_setting, read_yaml, settings_of
from lowerbound.supports import Levels
from lowerbound.train import check_settings, fit
from lowerbound.vae import VAE

FLAGS = ("--resume", "--overwrite", "--quiet", "--help", "-h")
NOT_SETTINGS = ("model", "objective", "data", "out", "resume", "overwrite", "progress")
DERIVED = ("sha256", "event_shape", "range")  # of the data: written for the record, found again from the data
PAIRS = 32  # originals and reconstructions on the sheet, and twice as many samples


def train(argv: Sequence[str]) -> None:
    """Train a model, evaluate it on the test split, and write it all into a run folder."""
    positional, options = _scan(argv)
    asked_for_help = "--help" in options or "-h" in options
    if len(positional) > 1:
        raise ValueError(f"one DATA is expected, not {len(positional)}: {' '.join(positional)}")
    trust = [name for value in options.get("--trust", []) for name in value.split(",")]
    base = _base_config(options)
    given_data = dict(base.pop("data", {}))
    source = positional[0] if positional else given_data.get("name", "digits")
    if source is None:
        raise ValueError("this configuration was trained on arrays in memory, which no file names: give DATA")
    same_data = not positional or given_data.get("name") in (source, str(Path(source).expanduser().resolve()))
    derived = {key: given_data.pop(key, None) for key in DERIVED}
    given_data.pop("name", None)
    if not same_data:
        given_data, derived = {}, {}
    data_options = _data_options(argv, given_data)
    if asked_for_help:
        print(_parser(base, options, None, trust).format_help())
        return
    data = load(source, **data_options)
    if same_data and data_options == given_data | data_options and derived.get("sha256") not in (None, data.sha256):
        changed = [k for k, v in given_data.items() if data_options[k] != v]
        if not changed:
            raise ValueError(
                f"{source} holds other data than when this configuration was written (its SHA-256 differs); to train on it "
                f"all the same, name it: lowerbound train {source} --config ..."
            )
    parser = _parser(base, options, data, trust)
    config = _resolve(parser, base, argv)
    control = {key: config.pop(key) for key in ("out", "resume", "overwrite", "quiet", "samples")}
    for key in ("source", "config", "trust", "data", "help"):
        config.pop(key, None)

    settings = {s.name: config[s.name] for s in settings_of(fit) if s.name not in NOT_SETTINGS}
    check_settings(settings, data)
    if control["samples"] < 1:
        raise ValueError(f"samples is {control['samples']}: at least 1 draw for each example is needed")
    with seeded(settings["seed"]):
        model = build_model(config, data.event_shape, trust)
    objective = build_objective(config, trust)
    check_data(model.likelihood, data.event_shape, data.support, data.name or "the data")
    out = _out(control, data)
    say = _silent if control["quiet"] else print
    say(_summary(config, data, model, out))
    history = fit(
        model,
        objective,
        data,
        **settings,
        out=out,
        resume=control["resume"],
        overwrite=control["overwrite"],
        progress=not control["quiet"],
    )
    chosen = "the best on validation" if "valid" in data.splits else "the last"
    say(f"\nthe weights are those of epoch {history.best_epoch}, {chosen}")
    _conclude(Run(out), model, data, control["samples"], say)


def _silent(text: str) -> None:
    pass


def _scan(argv: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Positional arguments, and the values given to each option: enough to find DATA, --config and the chosen parts."""
    positional: list[str] = []
    options: dict[str, list[str]] = {}
    rest = list(argv)
    while rest:
        token = rest.pop(0)
        if token in FLAGS:
            options.setdefault(token, [])
        elif token.startswith("-"):
            name, equals, value = token.partition("=")
            options.setdefault(name, []).append(value if equals else (rest.pop(0) if rest else ""))
        else:
            positional.append(token)
    return positional, options


def _base_config(options: Mapping[str, list[str]]) -> dict[str, Any]:
    """The configuration that a run starts from: of the run that is resumed, a recipe, a file, or nothing."""
    if "--resume" in options:
        if "--out" not in options:
            raise ValueError("say which run to resume: lowerbound train --resume --out RUN")
        if "--config" in options:
            raise ValueError("a run is resumed with its own configuration: leave out --config, or start a new folder")
        config = Run(options["--out"][-1]).config()
    elif "--config" in options:
        name = options["--config"][-1]
        is_file = Path(name).suffix in (".yaml", ".yml")
        config = read_yaml(Path(name).read_text("utf-8") if is_file else recipe_text(name), name)
    else:
        return {}
    version = config.pop("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(f"the configuration is of format {version!r}, and this lowerbound reads up to {FORMAT}")
    config.pop("about", None)
    config = expanded(config)
    if isinstance(config.get("data"), str):
        config["data"] = {"name": config["data"]}
    if not isinstance(config.get("data", {}), Mapping):
        raise ValueError("data in the configuration must be a name, or a mapping with a name")
    return config


def _data_options(argv: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of load: from the configuration, overridden by --data.* options."""
    parser = SettingsParser()
    for setting in settings_of(load)[1:]:
        add_setting(parser, f"data.{setting.name}", setting)
    rest = list(argv)
    own = []
    for i, token in enumerate(rest):
        if token.startswith("--data."):
            own += [token] if "=" in token else rest[i : i + 2]
    changes = parser.parse_args(own, defaults=False).as_dict().get("data", {})
    return dict(parser.parse_object({"data": {**given, **changes}}).as_dict()["data"])


def _parser(
    base: Mapping[str, Any], options: Mapping[str, list[str]], data: Dataset | None, trust: Sequence[str]
) -> SettingsParser:
    """Every option that this call may use, with the chosen parts' own settings."""
    support = data.support if data else Levels(17)  # help shows what holds for the bundled digits
    named = {key.removeprefix("--"): values[-1] for key, values in options.items() if values}
    is_slot = {key: key.removesuffix(".part").split(".")[-1] in SLOTS for key in named}
    from_options = {key.removesuffix(".part"): value for key, value in named.items() if is_slot[key]}
    from_config = chosen_parts({key: base[key] for key in SLOTS if key in base})
    chosen = default_parts(support) | from_config | from_options
    parser = SettingsParser()
    parser.usage = "lowerbound train [DATA] [options]"
    parser.description = (
        "Train a model, evaluate it on held-out data, and write a run folder. DATA is the name of a data set (digits, the "
        "default, mnist, fashion_mnist) or the path of a .npy or .npz file. Parts are chosen by name, and every argument of "
        "a part's constructor is an option: the settings below are those of the parts chosen in this call, so "
        "'lowerbound train --likelihood Normal --help' shows a normal likelihood's."
    )
    parser.add_argument("source", nargs="?", type=str, metavar="DATA", help="name or file; digits by default")
    group = parser.add_argument_group("the run")
    group.add_argument("-h", "--help", action="store_true", help="show this help")
    group.add_argument("--config", type=str, help="a shipped recipe's name (lowerbound recipes), or a .yaml file")
    group.add_argument("--out", type=str, help="run folder to write (default: runs/DATA-N)")
    group.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    group.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    group.add_argument("--quiet", action="store_true", help="print nothing but errors")
    group.add_argument("--samples", type=int, default=SAMPLES, help="importance samples in the evaluation at the end")
    group.add_argument("--trust", type=str, help="packages, by name, whose parts may be imported: a,b")
    training = parser.add_argument_group("training")
    for setting in settings_of(fit):
        if setting.name not in NOT_SETTINGS:
            add_setting(training, setting.name, setting)
    loading = parser.add_argument_group("data")
    for setting in settings_of(load)[1:]:
        add_setting(loading, f"data.{setting.name}", setting)
    add_model_settings(parser, chosen, support, trust)
    return parser


def _resolve(parser: SettingsParser, base: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """Defaults, overridden by the configuration, overridden by options."""
    changes = parser.parse_args(argv, defaults=False).as_dict()
    for role in SLOTS:  # another part than the configuration's has other settings
        part = changes.get(role, {}).get("part")
        if part is not None and isinstance(base.get(role), Mapping) and base[role].get("part") != part:
            base = {key: value for key, value in base.items() if key != role}
    return dict(parser.parse_object(_merged(base, changes)).as_dict())


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(base[key], changes[key]) if isinstance(base[key], Mapping) else changes[key]
        for key in base.keys() & changes.keys()
    }
    return {**base, **changes, **both}


def _out(control: Mapping[str, Any], data: Dataset) -> Path:
    if control["out"] is not None:
        return Path(control["out"]).expanduser()
    stem = data.name if data.name in NAMED else Path(data.name or "data").stem
    number = 1
    while Path("runs", f"{stem}-{number}").exists():
        number += 1
    return Path("runs", f"{stem}-{number}")


def _summary(config: Mapping[str, Any], data: Dataset, model: VAE, out: Path) -> str:
    """What is about to be trained, in lines that a person can check."""
    count = sum(p.numel() for p in model.parameters())
    shown = {key: config[key] for key in ("latent", "prior", "posterior", "likelihood", "objective")}
    parts = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=110).rstrip()
    body = "\n".join("  " + line for line in parts.splitlines())
    return f"data: {data}\nmodel: {count:,} parameters\n{body}\nrun: {out}"


def _conclude(run: Run, model: VAE, data: Dataset, samples: int, say: Any) -> None:
    """Evaluate on held-out data, draw the sheet, and say where to look."""
    evaluation = evaluate(model, data, "test", samples)
    run.write_evaluation(evaluation.as_json())
    lines = [f"{evaluation.n:,} held-out examples (test):", str(evaluation), f"\nrun folder    {run.path}"]
    if is_picture(data.event_shape):
        x = data.examples("test")[:PAIRS]
        drawn = model.sample(2 * PAIRS, 0, mean_of_x=True).cpu()
        parts = ", ".join(
            f"{role} {type(getattr(model, role)).__name__}" for role in ("prior", "posterior", "likelihood")
        )
        title = f"{Path(data.name or 'data').stem}: {parts}"
        save_figure(run.sheet_file, sheet(x, model.reconstruct(x).cpu(), drawn, data.range, title))
        lines.append(f"pictures      {run.sheet_file}")
    say("\n".join([*lines, f"again         lowerbound evaluate {run.path} --samples 5000"]))
