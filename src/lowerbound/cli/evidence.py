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
from lowerbound.config.settings import SettingsParser
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
from lowerbound.runs.opened import load_as, open_run, own_data, run_parser, trusted
from lowerbound.runs.run import Run
from lowerbound.utils.devices import find_device
from lowerbound.utils.messages import first_line
from lowerbound.utils.progress import counting

NARROW = 0.5  # nats between the bounds of an example below which its log p(x) counts as known


def evaluate(argv: Sequence[str]) -> int:
    """Measure a run's model on one split of its data, and write evaluation.json."""
    parser = run_parser(
        "evaluate",
        "RUN [DATA] [options]",
        "Measure the model of a run on held-out data: the evidence lower bound, an estimate of "
        "-log p(x), rate and distortion, each with its standard error over the examples, and a "
        "warning where a number cannot be trusted. Without DATA, the run's own are measured and "
        "RUN/evaluation.json is written; other DATA are split as they were.",
    )
    parser.add_argument(
        "source", type=str, metavar="DATA", nargs="?", help="a name, a file, or a folder"
    )
    _add_measuring(parser)
    parser.add_argument(
        "--curve",
        action="store_true",
        help="nll at K = 1, 10, 100, ... too, so that its bias can be seen",
    )
    parser.add_argument(
        "--estimator",
        type=str,
        default="importance",
        help="of nll: importance, or ais (annealed importance sampling: slower by far, tighter "
        "where q is poor)",
    )
    parser.add_argument(
        "--chains",
        type=int,
        help=f"of ais: independent chains for each example (default: {CHAINS})",
    )
    parser.add_argument(
        "--temperatures",
        type=int,
        help=f"of ais: densities on the way from q(z|x) to p(x, z) (default: {TEMPERATURES})",
    )
    parser.add_argument(
        "--precision",
        type=str,
        default="32-true",
        help="of the networks: 32-true, or bf16-mixed (faster, and rounded)",
    )
    parser.add_argument(
        "--devices",
        type=int,
        help="that share the work, a process each; on a CPU these are processes",
    )
    given = parser.read(argv)
    world = launched()
    check_devices(given["devices"], find_device(given["device"]), world, may_start=True)
    if (given["devices"] or 1) > 1 and world.size == 1:
        return launch("lowerbound", ["evaluate", *argv], given["devices"])
    of_chains = {key: given[key] for key in ("chains", "temperatures") if given[key] is not None}
    if of_chains and given["estimator"] == "importance":
        raise ValueError(
            f"--{next(iter(of_chains))} belongs to --estimator ais: add it, or leave the option out"
        )
    run, model = open_run(given)
    data = own_data(run) if given["source"] is None else load_as(run, given["source"])
    evaluation = _measured(
        run,
        model,
        data,
        given,
        curve=given["curve"],
        estimator=given["estimator"],
        precision=given["precision"],
        **of_chains,
    )
    if not world.is_first:
        return 0
    content = evaluation.as_json()
    try:
        if given["source"] is None and given["examples"] is None:
            with run.locked():
                run.write_evaluation(content)
    except (
        OSError,
        ValueError,
    ) as error:  # somebody else's run, or one in training, may still be measured
        sys.stderr.write(
            f"lowerbound: the evaluation was not written into the run folder: {first_line(error)}\n"
        )
    some = " (a part of it, so no file is written)" if given["examples"] is not None else ""
    words = f"{run.path}, {evaluation.split} split{some}\n{evaluation}"
    print(json.dumps(content, indent=2) if given["json"] else words)
    return 0


def compare(argv: Sequence[str]) -> None:
    """Measure several runs in the same way, and print them side by side."""
    parser = run_parser(
        "compare",
        "RUN RUN ... [options]",
        "Measure several runs, each on its own held-out data, and show them side by side with "
        "standard errors. Where the examples are the same, each run is also compared with the "
        "first example by example: such differences are known far better than the means "
        "themselves.",
    )
    parser.add_argument(
        "others", type=str, metavar="RUN", nargs="*", help="runs to compare with the first"
    )
    _add_measuring(parser)
    given = parser.read(argv)
    paths = [given["run"], *given["others"]]
    if len(paths) < 2:
        raise ValueError("name at least two runs: lowerbound compare RUN RUN ...")
    if twice := [path for i, path in enumerate(paths) if path in paths[:i]]:
        raise ValueError(f"{twice[0]} is named twice")
    opened = [(path, *open_run({**given, "run": path})) for path in paths]
    found = {path: _measured(run, model, own_data(run), given) for path, run, model in opened}
    comparison = compare_evaluations(found)
    if given["json"]:
        print(json.dumps(comparison.as_json(), indent=2))
        return
    ways = {own.estimator for own in found.values()}
    print(f"{given['split']} split{f', {ways.pop()}' if len(ways) == 1 else ''}\n{comparison}")


def sandwich(argv: Sequence[str]) -> None:
    """Bound log p(x) of simulated data from both sides."""
    parser = run_parser(
        "sandwich",
        "RUN [options]",
        "Simulate examples from the model of a run and bound log p(x) of each from both sides: "
        "annealed importance sampling from below, the same chains run backwards from the z that "
        "made the example from above. Where they meet, log p(x) is known, and so is what annealing "
        "with these settings can do for this model.",
    )
    parser.add_argument("-n", type=int, default=100, help="examples to simulate")
    _add_annealing(parser)
    given = parser.read(argv)
    run, model = open_run(given)
    how = {key: given[key] for key in ("n", "chains", "temperatures", "seed")}
    if (
        model.condition is not None and given["n"] > 0
    ):  # y is that of held-out examples, again and again
        known = own_data(run).context("test")
        how["context"] = known[torch.arange(given["n"]) % len(next(iter(known.given.values())))]
    with counting("annealing") as on_progress:
        found = sandwich_of(model, **how, on_progress=on_progress)
    narrow = ((found.upper - found.lower).abs() < NARROW).float()
    rows = {
        "lower": Estimate.over(found.lower),
        "upper": Estimate.over(found.upper),
        "gap": Estimate.over(found.upper - found.lower),
        "narrow": Estimate.over(narrow, f"of the examples have a gap below {NARROW} nats"),
        "acceptance": Estimate.over(found.acceptance, "of the trajectories were accepted"),
    }
    _show(
        given,
        rows,
        f"{run.path}, log p(x{'|y' * (model.condition is not None)}) of examples simulated from "
        "the model",
        doubts(found.acceptance),
    )


def gaps(argv: Sequence[str]) -> None:
    """What the bound loses, and where."""
    parser = run_parser(
        "gaps",
        "RUN [DATA] [options]",
        "How far the evidence lower bound lies below log p(x), and why: the approximation gap is "
        "lost because the family of q does not hold the true posterior, the amortisation gap "
        "because one network chooses q for every x. q is refined for each example by itself, and "
        "log p(x) found by annealed importance sampling.",
    )
    parser.add_argument(
        "source", type=str, metavar="DATA", nargs="?", help="a name, a file, or a folder"
    )
    parser.add_argument("--split", type=str, default="test", help="test, valid or train")
    parser.add_argument("-n", type=int, default=100, help="only the first n examples")
    parser.add_argument("--steps", type=int, default=500, help="of the refinement of q")
    _add_annealing(parser)
    given = parser.read(argv)
    if given["n"] < 1:
        raise ValueError(f"n is {given['n']}: at least 1 example is needed")
    run, model = open_run(given)
    data = own_data(run) if given["source"] is None else load_as(run, given["source"])
    model.check_data(data)
    rows = slice(given["n"])
    x, context = data.examples(given["split"], given["n"]), data.context(given["split"])[rows]
    with counting("refining q, annealing") as on_progress:
        how = {key: given[key] for key in ("steps", "chains", "temperatures", "seed")}
        found = gaps_of(model, x, context, **how, on_progress=on_progress)
    _show(given, found.estimates, f"{run.path}, {given['split']} split", found.warnings)


def scores(argv: Sequence[str]) -> None:
    """Score the codes of a run's model against known factors."""
    parser = run_parser(
        "scores",
        "RUN [DATA] [options]",
        "How far what the examples were made from (shape, size, position) is found in dimensions "
        "of their own: the mutual information gap, separated attribute predictability, "
        "disentanglement, completeness and informativeness, and the FactorVAE score, each from 0 "
        "to 1, with standard errors. The data need factors (the array factors or latents_classes "
        "of a .npz) or, as a single factor, labels.",
    )
    parser.add_argument(
        "source", type=str, metavar="DATA", nargs="?", help="a name, a file, or a folder"
    )
    parser.add_argument("--split", type=str, default="test", help="test, valid or train")
    parser.add_argument(
        "--examples", type=int, default=EXAMPLES, help="only the first so many of the split"
    )
    parser.add_argument(
        "--bins", type=int, default=BINS, help="of each dimension, for the mutual information gap"
    )
    parser.add_argument("--seed", type=int, default=0, help="of halves, forests and votes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.read(argv)
    run, model = open_run(given)
    data = own_data(run) if given["source"] is None else load_as(run, given["source"])
    found = scores_of(model, data, given["split"], given["examples"], given["bins"], given["seed"])
    print(
        json.dumps(found.as_json(), indent=2)
        if given["json"]
        else f"{run.path}, {given['split']} split\n{found}"
    )


def _add_measuring(parser: SettingsParser) -> None:
    parser.add_argument("--split", type=str, default="test", help="test, valid or train")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="K, draws for each example")
    parser.add_argument("--examples", type=int, help="measure only the first so many of the split")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_annealing(parser: SettingsParser) -> None:
    parser.add_argument(
        "--chains", type=int, default=CHAINS, help="independent chains for each example"
    )
    parser.add_argument(
        "--temperatures",
        type=int,
        default=TEMPERATURES,
        help="densities on the way from q(z|x) to p(x, z)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the simulation, the refinement and the chains"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _measured(
    run: Run, model: Model, data: Dataset, given: Mapping[str, Any], **how: Any
) -> Evaluation:
    objective = build_objective(complete(run.config(), trust=trusted(given)), trusted(given))
    with counting(f"measuring {run.path}") as on_progress:
        return evaluate_model(
            model,
            data,
            given["split"],
            given["samples"],
            seed=given["seed"],
            objective=objective,
            examples=given["examples"],
            on_progress=on_progress,
            **how,
        )


def _show(
    given: Mapping[str, Any], rows: Mapping[str, Estimate], title: str, warnings: Sequence[str]
) -> None:
    if given["json"]:
        content = {name: own.as_json() for name, own in rows.items()}
        print(json.dumps({**content, "warnings": list(warnings)}, indent=2))
        return
    width = max(map(len, rows))
    lines = [f"{name:>{width}}  {own}" for name, own in rows.items()]
    print("\n".join([title, *lines, *(f"{'warning':>{width}}  {words}" for words in warnings)]))
