"""How good a trained model is, and how far the numbers can be believed: evaluate, compare,
sandwich, gaps.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lowerbound.config.build import build_objective, complete
from lowerbound.config.options import Options
from lowerbound.data.dataset import Dataset
from lowerbound.evaluation import sandwich as sandwich_of
from lowerbound.evaluation.annealing import doubts
from lowerbound.evaluation.compare import compare as compare_evaluations
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.evaluate import CHAINS, SAMPLES, TEMPERATURES
from lowerbound.evaluation.evaluate import evaluate as evaluate_model
from lowerbound.evaluation.gaps import gaps as gaps_of
from lowerbound.evaluation.result import Evaluation
from lowerbound.evaluation.scores import BINS, EXAMPLES
from lowerbound.evaluation.scores import scores as scores_of
from lowerbound.model import Model
from lowerbound.parallel.launch import launch
from lowerbound.parallel.processes import check_devices, launched
from lowerbound.runs.opened import load_as, open_run, own_data, run_options, trusted
from lowerbound.runs.run import Run
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import first_line, printable
from lowerbound.utils.progress import counting

NARROW = 0.5  # nats between the bounds of an example below which its log p(x) counts as known


def evaluate(argv: Sequence[str]) -> int:
    """Measure a run's model on one split of its data, and write evaluation.json."""
    options = run_options(
        "evaluate",
        "RUN [DATA] [options]",
        "Measure the model of a run on held-out data: the evidence lower bound, an estimate of "
        "-log p(x), rate and distortion, each with its standard error over the examples, and a "
        "warning where a number cannot be trusted. Without DATA, the run's own are measured and "
        "RUN/evaluation.json is written; other DATA are split as they were.",
    )
    options.add_positional("source", "DATA", "a name, a file, or a folder")
    _add_measuring(options)
    options.add(
        "curve", bool, "nll at K = 1, 10, 100, ... too, so that its bias can be seen", False
    )
    options.add(
        "estimator",
        str,
        "of nll: importance, or ais (annealed importance sampling: slower by far, tighter "
        "where q is poor)",
        "importance",
    )
    options.add("chains", int, f"of ais: independent chains for each example (default: {CHAINS})")
    options.add(
        "temperatures",
        int,
        f"of ais: densities on the way from q(z|x) to p(x, z) (default: {TEMPERATURES})",
    )
    options.add(
        "precision", str, "of the networks: 32-true, or bf16-mixed (faster, and rounded)", "32-true"
    )
    options.add("devices", int, "that share the work, a process each; on a CPU these are processes")
    arguments = options.read(argv)
    world = launched()
    check_devices(arguments["devices"], find_device(arguments["device"]), world, may_start=True)
    if (arguments["devices"] or 1) > 1 and world.size == 1:
        return launch("lowerbound", ["evaluate", *argv], arguments["devices"])
    of_chains = {
        key: arguments[key] for key in ("chains", "temperatures") if arguments[key] is not None
    }
    if of_chains and arguments["estimator"] == "importance":
        raise ValueError(
            f"--{next(iter(of_chains))} belongs to --estimator ais: add it, or leave the option out"
        )
    run, model = open_run(arguments)
    data = own_data(run) if arguments["source"] is None else load_as(run, arguments["source"])
    evaluation = _measured(
        run,
        model,
        data,
        arguments,
        curve=arguments["curve"],
        estimator=arguments["estimator"],
        precision=arguments["precision"],
        **of_chains,
    )
    if not world.is_first:
        return 0
    content = evaluation.as_json()
    try:
        if arguments["source"] is None and arguments["examples"] is None:
            with run.locked():
                run.write_evaluation(content)
    except (
        OSError,
        ValueError,
    ) as error:  # somebody else's run, or one in training, may still be measured
        sys.stderr.write(
            "lowerbound: the evaluation was not written into the run folder: "
            f"{printable(first_line(error))}\n"
        )
    some = " (a part of it, so no file is written)" if arguments["examples"] is not None else ""
    table = f"{run}, {evaluation.split} split{some}\n{evaluation}"
    print(json.dumps(content, indent=2) if arguments["json"] else table)
    return 0


def compare(argv: Sequence[str]) -> None:
    """Measure several runs in the same way, and print them side by side."""
    options = run_options(
        "compare",
        "RUN RUN ... [options]",
        "Measure several runs, each on its own held-out data, and show them side by side with "
        "standard errors. Where the examples are the same, each run is also compared with the "
        "first example by example: such differences are known far better than the means "
        "themselves.",
    )
    options.add_positional("others", "RUN", "runs to compare with the first", [])
    _add_measuring(options)
    arguments = options.read(argv)
    paths = [arguments["run"], *arguments["others"]]
    if len(paths) < 2:
        raise ValueError("name at least two runs: lowerbound compare RUN RUN ...")
    if twice := [path for i, path in enumerate(paths) if path in paths[:i]]:
        raise ValueError(f"{twice[0]} is named twice")
    opened = [open_run({**arguments, "run": path}) for path in paths]
    evaluations = {
        str(run): _measured(run, model, own_data(run), arguments) for run, model in opened
    }
    comparison = compare_evaluations(evaluations)
    if arguments["json"]:
        print(json.dumps(comparison.as_json(), indent=2))
        return
    ways = {evaluation.estimator for evaluation in evaluations.values()}
    print(f"{arguments['split']} split{f', {ways.pop()}' if len(ways) == 1 else ''}\n{comparison}")


def sandwich(argv: Sequence[str]) -> None:
    """Bound log p(x) of simulated data from both sides."""
    options = run_options(
        "sandwich",
        "RUN [options]",
        "Simulate examples from the model of a run and bound log p(x) of each from both sides: "
        "annealed importance sampling from below, the same chains run backwards from the z that "
        "made the example from above. Where they meet, log p(x) is known, and so is what annealing "
        "with these settings can do for this model.",
    )
    options.add("n", int, "examples to simulate", 100)
    _add_annealing(options)
    arguments = options.read(argv)
    run, model = open_run(arguments)
    how = {key: arguments[key] for key in ("n", "chains", "temperatures", "seed")}
    # y is that of held-out examples, again and again
    if model.condition is not None and arguments["n"] > 0:
        known = own_data(run).context("test")
        how["context"] = known[torch.arange(arguments["n"]) % len(next(iter(known.given.values())))]
    with counting("annealing") as on_progress:
        bounds = sandwich_of(model, **how, on_progress=on_progress)
    narrow = ((bounds.upper - bounds.lower).abs() < NARROW).float()
    rows = {
        "lower": Estimate.over(bounds.lower),
        "upper": Estimate.over(bounds.upper),
        "gap": Estimate.over(bounds.upper - bounds.lower),
        "narrow": Estimate.over(narrow, f"of the examples have a gap below {NARROW} nats"),
        "acceptance": Estimate.over(bounds.acceptance, "of the trajectories were accepted"),
    }
    _show(
        arguments,
        rows,
        f"{run}, log p(x{'|y' * (model.condition is not None)}) of examples simulated from "
        "the model",
        doubts(bounds.acceptance),
    )


def gaps(argv: Sequence[str]) -> None:
    """What the bound loses, and where."""
    options = run_options(
        "gaps",
        "RUN [DATA] [options]",
        "How far the evidence lower bound lies below log p(x), and why: the approximation gap is "
        "lost because the family of q does not hold the true posterior, the amortisation gap "
        "because one network chooses q for every x. q is refined for each example by itself, and "
        "log p(x) found by annealed importance sampling.",
    )
    options.add_positional("source", "DATA", "a name, a file, or a folder")
    options.add("split", str, "test, valid or train", "test")
    options.add("n", int, "only the first n examples", 100)
    options.add("steps", int, "of the refinement of q", 500)
    _add_annealing(options)
    arguments = options.read(argv)
    if arguments["n"] < 1:
        raise ValueError(f"n is {arguments['n']}: at least 1 example is needed")
    run, model = open_run(arguments)
    data = own_data(run) if arguments["source"] is None else load_as(run, arguments["source"])
    data = model.matched(data)
    rows = slice(arguments["n"])
    x, context = (
        data.examples(arguments["split"], arguments["n"]),
        data.context(arguments["split"])[rows],
    )
    with counting("refining q, annealing") as on_progress:
        how = {key: arguments[key] for key in ("steps", "chains", "temperatures", "seed")}
        result = gaps_of(model, x, context, **how, on_progress=on_progress)
    _show(arguments, result.estimates, f"{run}, {arguments['split']} split", result.warnings)


def scores(argv: Sequence[str]) -> None:
    """Score the codes of a run's model against known factors."""
    options = run_options(
        "scores",
        "RUN [DATA] [options]",
        "How far what the examples were made from (shape, size, position) is found in dimensions "
        "of their own: the mutual information gap, separated attribute predictability, "
        "disentanglement, completeness and informativeness, and the FactorVAE score, each from 0 "
        "to 1, with standard errors. The data need factors (the array factors or latents_classes "
        "of a .npz) or, as a single factor, labels.",
    )
    options.add_positional("source", "DATA", "a name, a file, or a folder")
    options.add("split", str, "test, valid or train", "test")
    options.add("examples", int, "only the first so many of the split", EXAMPLES)
    options.add("bins", int, "of each dimension, for the mutual information gap", BINS)
    options.add("seed", int, "of halves, forests and votes", 0)
    options.add("json", bool, "print JSON instead of a table", False)
    arguments = options.read(argv)
    run, model = open_run(arguments)
    data = own_data(run) if arguments["source"] is None else load_as(run, arguments["source"])
    result = scores_of(
        model, data, arguments["split"], arguments["examples"], arguments["bins"], arguments["seed"]
    )
    print(
        json.dumps(result.as_json(), indent=2)
        if arguments["json"]
        else f"{run}, {arguments['split']} split\n{result}"
    )


def _add_measuring(options: Options) -> None:
    options.add("split", str, "test, valid or train", "test")
    options.add("samples", int, "K, draws for each example", SAMPLES)
    options.add("examples", int, "measure only the first so many of the split")
    options.add("seed", int, "of the draws", 0)
    options.add("json", bool, "print JSON instead of a table", False)


def _add_annealing(options: Options) -> None:
    options.add("chains", int, "independent chains for each example", CHAINS)
    options.add("temperatures", int, "densities on the way from q(z|x) to p(x, z)", TEMPERATURES)
    options.add("seed", int, "of the simulation, the refinement and the chains", 0)
    options.add("json", bool, "print JSON instead of a table", False)


def _measured(
    run: Run, model: Model, data: Dataset, arguments: Mapping[str, Any], **how: Any
) -> Evaluation:
    objective = build_objective(
        complete(run.config(), trust=trusted(arguments["trust"])), trusted(arguments["trust"])
    )
    with counting(f"measuring {run}") as on_progress:
        return evaluate_model(
            model,
            data,
            arguments["split"],
            arguments["samples"],
            seed=arguments["seed"],
            objective=objective,
            examples=arguments["examples"],
            on_progress=on_progress,
            **how,
        )


def _show(
    arguments: Mapping[str, Any], rows: Mapping[str, Estimate], title: str, warnings: Sequence[str]
) -> None:
    if arguments["json"]:
        content = {name: estimate.as_json() for name, estimate in rows.items()}
        print(json.dumps({**content, "warnings": list(warnings)}, indent=2))
        return
    width = max(map(len, rows))
    lines = [f"{name:>{width}}  {estimate}" for name, estimate in rows.items()]
    print("\n".join([title, *lines, *(f"{'warning':>{width}}  {warning}" for warning in warnings)]))
