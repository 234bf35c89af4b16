"""``lowerbound train``: from data and settings to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lowerbound.checks import check_columns
from lowerbound.config.build import (
    build_model,
    build_objective,
    chosen_parts,
    expanded,
    listed,
    model_options,
    top_level_parts,
    wiring,
)
from lowerbound.config.from_data import conditioned, default_likelihood, reason_for, with_groups
from lowerbound.config.options import CommandLine, Options
from lowerbound.config.recipes import recipe_text
from lowerbound.config.settings import (
    Setting,
    as_option,
    nested,
    plain,
    read_yaml,
    read_yaml_file,
    resolve,
    settings_of,
)
from lowerbound.data import NAMED, OWN, load
from lowerbound.data.dataset import Dataset
from lowerbound.data.held_out import SPLIT, check_unchanged
from lowerbound.evaluation.evaluate import SAMPLES, evaluate
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.parallel.launch import launch, leave_note
from lowerbound.parallel.processes import check_devices, join, launched
from lowerbound.plots import is_picture, save_figure, sheet
from lowerbound.report.page import write_report
from lowerbound.report.samples import samples_shown
from lowerbound.roles import Context
from lowerbound.runs.opened import trusted
from lowerbound.runs.run import FORMAT, Run
from lowerbound.supports import Levels
from lowerbound.training.callbacks import CallbackError
from lowerbound.training.fit import fit
from lowerbound.training.loggers import LoggerName
from lowerbound.training.settings import Settings, check_settings
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import pasted, printable
from lowerbound.utils.seeding import seeded

RUN = "the run"  # the options that are for the command line only, and in no configuration
# what a configuration does not hold: what is trained, what is told by other means, and who listens
NOT_SETTINGS = (
    "model", "objective", "data", "out", "resume", "overwrite", "progress", "callbacks", "logger",
)  # fmt: skip
# of the data: written for the record, found again from the data
DERIVED = ("sha256", SPLIT, "event_shape", "range", "decimals")
PAIRS = 32  # originals and reconstructions on the sheet, and twice as many samples


def train(argv: Sequence[str]) -> int:
    """Train a model, evaluate it on the test split, and write it all into a run folder."""
    options = _options()
    line = CommandLine.of(argv, options.settings)
    if len(line.positional) > 1:
        raise ValueError(
            f"one DATA is expected, not {len(line.positional)}: {' '.join(line.positional)}"
        )
    base, trust = _base_config(line, options), trusted(line.options.get("trust"))
    origin = _origin(line, base.pop("init", None))
    if line.options.get("help"):
        _add_parts(options, line, base, None)
        print(options.help())
        return 0
    world = launched()
    if world.size > 1 and "devices" not in line.options:
        base.pop(
            "devices", None
        )  # a configuration says how many there were; now there are those that were started
    processes = _devices(line, base)
    if processes > 1 and world.size == 1:
        return launch("lowerbound", ["train", *argv], processes)
    reason = None  # for the choice of a part, where it is not the usual one
    with join().one_goes_ahead():
        data = _load_data(line, base.pop("data", {}), options.groups["data"])
    if "likelihood" not in {*base, *line.options}:
        base["likelihood"] = default_likelihood(data)
        reason = reason_for(base["likelihood"], data)
    if isinstance(base.get("likelihood"), Mapping) or "likelihood" in line.options:
        before = base.get("likelihood", {})
        name = line.options.get("likelihood", before.get("part"))
        base["likelihood"] = with_groups(
            before if before.get("part") == name else {"part": name}, data, trust
        )
    _add_parts(options, line, base, data)
    config = _resolve(options, base, line)
    control = {setting.name: config.pop(setting.name) for setting in options.groups[RUN]}
    config.pop("data")
    config = conditioned(config, data.condition, data.name or "the data")
    settings = {s.name: config[s.name] for s in settings_of(fit) if s.name not in NOT_SETTINGS}

    check_settings(Settings(**settings), data)
    if control["samples"] < 1:
        raise ValueError(
            f"samples is {control['samples']}: at least 1 draw for each example is needed"
        )
    with seeded(settings["seed"]):
        model = build_model(config, data.event_shape, trust)
        # it may have weights of its own, behind the model's
        objective = build_objective(config, trust)
    if origin is not None:
        origin.begin_with(model)
    model.check_data(data)
    check_columns(model.likelihood, data)
    run = Run(
        world.broadcast(lambda: _next_folder(data)) if control["out"] is None else control["out"]
    )
    say: Callable[[str], object] = (
        partial(print, flush=True)  # into a pipe too, before the first step
        if world.is_first and not control["quiet"]
        else lambda text: None
    )
    with ExitStack() as stack:
        world.broadcast(lambda: _held(stack, run, control))
        say("\n".join([*filter(None, [reason]), _summary(config, data, model, run, trust)]))
        how = {key: control[key] for key in ("resume", "overwrite")}
        leave_note(run.path)
        try:
            history = fit(
                model, objective, data, **settings, out=run, **how,
                progress=not control["quiet"], logger=control["logger"],
            )  # fmt: skip
        except CallbackError as error:  # the logger: callbacks are given in Python only
            raise ValueError(str(error)) from error
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


def _options() -> Options:
    """The options that a training has whatever its parts are; those of the parts come behind."""
    options = Options(
        "lowerbound train [DATA] [options]",
        "Train a model, evaluate it on held-out data, and write a run folder. DATA is the name of "
        "a data set (digits, the default, or another that 'lowerbound data' lists) or the path of "
        f"a {OWN}. Parts are chosen by name, and every argument of a part's constructor is an "
        "option: the settings below are those of the parts chosen in this call, so 'lowerbound "
        "train --likelihood Normal --help' shows a normal likelihood's. An option that is on or "
        "off needs no value: --compile is --compile true, and --compile false takes it back.",
        group=RUN,
    )
    options.add_positional("source", "DATA", "name, file or folder; digits by default")
    options.add("config", str, "a shipped recipe's name (lowerbound recipes), or a .yaml file")
    options.add("out", str, "run folder to write (default: runs/DATA-N)")
    options.add(
        "init",
        str,
        "a finished run whose weights this one begins with, and whose configuration it takes where "
        "no other is named: lowerbound train DATA --init RUN --epochs 5 goes on with other data",
    )
    options.add("resume", bool, "go on with the run in --out from its last checkpoint", False)
    options.add("overwrite", bool, "replace the run in --out", False)
    options.add("quiet", bool, "print nothing but errors", False)
    options.add(
        "logger",
        LoggerName,
        "where the numbers of each epoch go besides metrics.jsonl: tensorboard or csv, into the "
        "folder logs of the run",
    )
    options.add("no_report", bool, "leave out report.html at the end", False)
    options.add("samples", int, "importance samples in the evaluation at the end", SAMPLES)
    options.add("trust", str, "packages, by name, whose parts may be imported: a,b")
    of_fit = [setting for setting in settings_of(fit) if setting.name not in NOT_SETTINGS]
    options.add_group("training", map(as_option, of_fit))
    options.add_group("data", [as_option(setting, "data.") for setting in settings_of(load)[1:]])
    return options


def _add_parts(
    options: Options, line: CommandLine, base: Mapping[str, Any], data: Dataset | None
) -> None:
    """Add the settings of the parts that the command line and the configuration choose."""
    support = data.support if data else Levels(17)  # help shows what holds for the bundled digits
    # only those of the options are looked at that name a part
    chosen = chosen_parts(base) | dict(line.options)
    wired = wiring(base) | _wiring(line)
    groups = model_options(chosen, support, wired, trusted(line.options.get("trust")))
    for title, settings in groups.items():
        options.add_group(title, settings)


def _wiring(line: CommandLine) -> dict[str, Any]:
    """What the command line says of the number of the model's parts; their types are not known
    yet.
    """
    named = {
        key: plain(value)
        for key, value in line.options.items()
        if key == "latent" or key.startswith("model.")
    }
    return wiring(nested(named))


def _devices(line: CommandLine, base: Mapping[str, Any]) -> int:
    """How many processes are asked for, after a check that needs no data: nobody waits for them to
    start in vain.
    """
    asked = {"devices": None, "device": "auto", **base, **line.options}
    check_devices(asked["devices"], find_device(str(asked["device"])), launched(), may_start=True)
    return asked["devices"] or 1


def _base_config(line: CommandLine, options: Options) -> dict[str, Any]:
    """The configuration that a run starts from: of the run that is resumed, a recipe, a file, or
    nothing.
    """
    name, trust = line.options.get("config"), trusted(line.options.get("trust"))
    if line.options.get("resume"):
        if not line.options.get("out"):
            raise ValueError("say which run to resume: lowerbound train --resume --out RUN")
        if name is not None:
            raise ValueError(
                "a run is resumed with its own configuration: leave out --config, or start a new "
                "folder"
            )
        if line.options.get("init"):
            raise ValueError(
                "a run that is resumed has weights of its own: leave out --init, or start a new "
                "folder"
            )
        config = Run(line.options["out"]).config()
    elif name is None and line.options.get("init"):
        config = Run(line.options["init"]).config()
        config.pop("init", None)  # whose weights that run began with
    elif name is not None:
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
    orders = {setting.name for setting in options.groups[RUN]} - {"init"}  # that is on record too
    if mixed := sorted(config.keys() & orders):
        raise ValueError(
            f"{mixed[0]} belongs on the command line (--{mixed[0].replace('_', '-')}), not in a "
            "configuration"
        )
    config = expanded(_other_model(config, line, trust), _wiring(line), trust)
    if isinstance(config.get("data"), str):
        config["data"] = {"name": config["data"]}
    if not isinstance(config.get("data", {}), Mapping):
        raise ValueError("data in the configuration must be a name, or a mapping with a name")
    return config


def _origin(line: CommandLine, record: Mapping[str, Any] | None) -> Run | None:
    """The run whose weights a new one begins with: as --init says, or as a configuration has it on
    record; None for weights at random, and for a run that is resumed.

    Raises:
        ValueError: there is no such run, or its weights have changed since.
    """
    if line.options.get("init"):
        return Run(line.options["init"])
    if record is None or line.options.get("resume"):
        return None
    if record.get("run") is None:
        raise ValueError(
            "this configuration began with weights that were never in a run folder, so it cannot "
            "be repeated; say with --init RUN which weights to begin with"
        )
    run = Run(record["run"])
    if run.origin() != record:
        raise ValueError(
            f"this configuration began with the weights of {run.path}, and they have changed since "
            "(their SHA-256 differs); to begin with them as they are, name them: "
            f"--init {pasted(run.path)}"
        )
    return run


def _other_model(
    config: Mapping[str, Any], line: CommandLine, trust: Sequence[str]
) -> dict[str, Any]:
    """A configuration without what only its own model has, where the command line names another
    one.
    """
    model = config.get("model", {})
    name = model if isinstance(model, str) else model.get("part")
    if line.options.get("model") in (None, name):
        return dict(config)
    before = top_level_parts({} if name is None else {"model": name}, trust)
    gone = before.keys() - top_level_parts(line.options, trust).keys() | {"model", "latent"}
    return {
        **{key: value for key, value in config.items() if key not in gone},
        "model": line.options["model"],
    }


def _load_data(line: CommandLine, card: Mapping[str, Any], settings: Sequence[Setting]) -> Dataset:
    """The data that are named: DATA, or those of the configuration's card with its options, or the
    digits.
    """
    data = line.positional[0] if line.positional else None
    options = {key: value for key, value in card.items() if key not in (*DERIVED, "name")}
    if data is not None and card.get("name") not in (data, str(Path(data).expanduser().resolve())):
        options = {}  # other data than the configuration's have no use for its options
    changes = {
        key.removeprefix("data."): value
        for key, value in line.options.items()
        if key.startswith("data.")
    }
    options = resolve(settings, {"data": options | changes})["data"]
    source = card.get("name", "digits") if data is None else data
    if source is None:
        raise ValueError(
            "this configuration was trained on arrays in memory, which no file names: give DATA"
        )
    dataset = load(source, **options)
    if data is None and not changes:
        check_unchanged(card, dataset, f"train anew: lowerbound train {source} --config ...")
    return dataset


def _resolve(options: Options, base: Mapping[str, Any], line: CommandLine) -> dict[str, Any]:
    """Defaults, overridden by the configuration, overridden by the command line."""
    settings = options.settings.values()
    return resolve(settings, _merged(base, nested(line.named(settings))))


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


def _summary(
    config: Mapping[str, Any], data: Dataset, model: Model, run: Run, trust: Sequence[str]
) -> str:
    """What is about to be trained, in lines that a person can check."""
    count = sum(p.numel() for p in model.parameters())
    keys = ("latent", *top_level_parts(chosen_parts(config), trust))
    shown = listed({key: config[key] for key in keys if key in config})
    if shown["model"] == {"part": "VAE"}:
        del shown["model"]  # what is understood where none is named
    parts = yaml.safe_dump(shown, sort_keys=False, default_flow_style=None, width=110).rstrip()
    body = "\n".join("  " + line for line in parts.splitlines())
    return f"data: {data}\nmodel: {count:,} parameters\n{body}\nrun: {run}"


def _spread(data: Dataset, split: str, count: int) -> tuple[Tensor, Context]:
    """So many examples of a split, by chance and always the same, in their order: the first ones of
    sorted data are of one class.
    """
    n = len(data[split])
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:count].sort().values
    chosen, first = [], 0
    for x in data.batches(split):
        chosen.append(x[rows[(rows >= first) & (rows < first + len(x))] - first])
        first += len(x)
    return torch.cat(chosen), data.context(split)[rows]


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
        f"\nrun folder    {run}",
    ]
    if is_picture(data.event_shape):
        x, context = _spread(data, "test", PAIRS)
        drawn, caption = samples_shown(model, data, "test", rows=2 * PAIRS // 16, columns=16)
        parts = ", ".join(f"{role} {type(part).__name__}" for role, part in model.parts.items())
        title = f"{Path(data.name or 'data').stem}: {parts}"
        again = model.reconstruct(x, context).cpu()
        save_figure(run.sheet_file, sheet(x, again, drawn, data.range, title, caption))
        lines.append(f"pictures      {printable(run.sheet_file)}")
    if report:
        report_file = write_report(run, model, data, evaluation.as_json())
        lines.append(f"report        {printable(report_file)}")
    say(
        "\n".join(
            [
                *lines,
                f"again         lowerbound evaluate {printable(pasted(run.path))} --samples 5000",
            ]
        )
    )
