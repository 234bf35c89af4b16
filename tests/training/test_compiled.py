"""The compiled pass: the plain one's numbers, sooner; and one line where it cannot be had."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

import lowerbound as lb
from lowerbound.data.dataset import Dataset, Split
from lowerbound.data.transforms import Bernoulli, Flip, Threshold, Transform, UnitScale
from lowerbound.model import Model
from lowerbound.objective import Objective
from lowerbound.training.compiled import (
    Compiled,
    CompiledStep,
    fits_one_graph,
    tracing_steps,
    unvalidated,
)
from lowerbound.training.optimizers import make_optimizer, parameter_groups
from lowerbound.training.passes import GatheringPass, Pass, dry_run
from tests import composition
from tests.conftest import make_model
from tests.models.test_hierarchical import small as hierarchical
from tests.models.test_m2 import small as m2
from tests.training.test_optimizers import stopped_at

# what torch's own modules say of each other while they are imported
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_compiled_training_is_the_plain_one_up_to_rounding_and_is_resumed_bit_for_bit(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    """Through a warm-up, which no graph may keep from its first step, and batches that are smaller
    than the others.
    """
    how = {
        "epochs": 2,
        "batch_size": 200,
        "learning_rate": 1e-3,
        "progress": False,
        "checkpoint_seconds": 0.0,
        "clip": 5.0,
        "schedule": "cosine",
    }
    ends = {}
    for name, compile in (("plain", False), ("compiled", True), ("resumed", True)):
        torch.manual_seed(0)
        model, out = make_model(binary_digits), tmp_path / name
        if name == "resumed":
            with stopped_at(11):
                lb.fit(
                    model,
                    lb.objectives.ELBO(warmup=0.5),
                    binary_digits,
                    **how,
                    compile=compile,
                    out=out,
                )
            torch.manual_seed(1)
            model = make_model(binary_digits)
        history = lb.fit(
            model, lb.objectives.ELBO(warmup=0.5), binary_digits, **how, compile=compile, out=out,
            resume=name == "resumed",
        )  # fmt: skip
        ends[name] = weights(model), history
    plain, compiled, resumed = (ends[name] for name in ("plain", "compiled", "resumed"))
    assert torch.equal(compiled[0], resumed[0])
    assert compiled[1].series("loss") == resumed[1].series("loss")
    for name in ("loss", "elbo", "rate"):
        assert plain[1].series(name) == pytest.approx(compiled[1].series(name), rel=1e-5)
    # 16 steps of Adam, each of at most 1e-3 and of any sign where a gradient is rounding itself
    assert (plain[0] - compiled[0]).abs().max() < 1e-3
    assert (plain[0] - compiled[0]).abs().mean() < 1e-6
    assert compiled[1].epochs[0]["compile_seconds"] > 0 == compiled[1].epochs[1]["compile_seconds"]
    assert "compile_seconds" not in plain[1].epochs[0]


def adam(model: Model, objective: Objective) -> torch.optim.Adam:
    return make_optimizer("adam", model, objective, 1e-3, fused=True)


def in_one_graph(
    plain: Pass, optimizer: torch.optim.Adam, clip: float | None, backend: str
) -> Callable[..., Any]:
    """A step whose graph is made by a backend that takes less time than a compiler."""
    step = CompiledStep(plain, optimizer, clip, torch.device("cpu"))
    if backend != "inductor":
        with unvalidated():
            step.graph = torch.compile(step.step, fullgraph=True, dynamic=False, backend=backend)
    return tracing_steps()(step)


def by_hand(
    plain: Pass, optimizer: torch.optim.Adam, clip: float | None, *given: Any
) -> dict[str, torch.Tensor]:
    """The same step without a graph: torch's own gradients, clipping and update."""
    total, log, _ = plain(*given)
    total.backward()
    if clip is not None:
        for group in parameter_groups(plain.model, plain.objective):
            nn.utils.clip_grad_norm_(group["params"], clip)
    optimizer.step()
    optimizer.zero_grad()
    return {
        **{name: value.detach().double().sum() for name, value in log.items()},
        "skipped": torch.zeros(()),
    }


def same_in_one_graph(
    plain: Pass,
    x: torch.Tensor,
    beside: dict[str, torch.Tensor],
    backend: str = "aot_eager",
    clip: float | None = None,
    tolerance: float = 1e-4,
) -> bool:
    """Whether two steps end with the same weights, moments and sums, in a graph and not; tracing
    alone is what can fail.
    """
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    found = []
    for is_graph in (True, False):
        plain.load_state_dict(before)
        made = adam(plain.model, plain.objective)
        step = (
            in_one_graph(plain, made, clip, backend)
            if is_graph
            else partial(by_hand, plain, made, clip)
        )
        torch.manual_seed(1)
        for progress in (0.3, 0.6):
            told = step(x, beside, progress, 40)
        log = told[0] if is_graph else told
        found.append(
            (
                plain.state_dict(),
                made.state_dict()["state"],
                {k: v.double() for k, v in log.items()},
            )
        )
        found[-1] = copy.deepcopy(found[-1])
    torch.testing.assert_close(found[0], found[1], rtol=tolerance, atol=tolerance / 100)
    return True


SHIPPED = ["VampPrior DiagonalNormal Bernoulli ELBO", "Categorical Categorical Categorical IWAE"]


@pytest.mark.parametrize("names", SHIPPED)
def test_parts_are_traced_as_one_graph_with_the_same_gradients(names: str) -> None:
    combination = tuple(names.split())
    data = composition.data_for(combination[2])
    model, objective = composition.compose(combination, data)
    dry_run(model, objective, data)
    rows = torch.arange(20)
    x, beside = data.present("train", rows), data.context("train")[rows].given
    assert same_in_one_graph(Pass(model, objective).train(), x, beside)


def test_a_graph_steps_as_the_optimiser_does_and_clips_model_and_critic_by_themselves() -> None:
    torch.compiler.reset()
    combination = ("StandardNormal", "DiagonalNormal", "Bernoulli", "FactorVAE")
    data = composition.data_for(combination[2])
    model, objective = composition.compose(combination, data)
    dry_run(model, objective, data)
    rows = torch.arange(20)
    x, beside = data.present("train", rows), data.context("train")[rows].given
    assert same_in_one_graph(Pass(model, objective).train(), x, beside, clip=0.01)


def test_in_a_graph_too_a_step_whose_gradient_is_not_finite_is_left_out(digits: Dataset) -> None:
    torch.compiler.reset()
    model, objective = make_model(digits), lb.objectives.ELBO()
    dry_run(model, objective, digits)
    plain, made = Pass(model, objective).train(), adam(model, objective)
    # not by another backend: a compiler may take zero times a number for zero
    step, x = in_one_graph(plain, made, None, "inductor"), digits.present("train", torch.arange(8))
    assert step(x, {}, 0.1, 40)[0]["skipped"] == 0
    before = copy.deepcopy((plain.state_dict(), made.state_dict()["state"]))
    for bad in (x / 0, x * torch.nan):
        assert step(bad, {}, 0.2, 40)[0]["skipped"] == 1
    torch.testing.assert_close(
        (plain.state_dict(), made.state_dict()["state"]), before, rtol=0, atol=0
    )
    step(x, {}, 0.3, 40)
    assert not torch.equal(weights(model), torch.cat([v.flatten() for v in before[0].values()]))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_in_a_graph_too_a_parameter_without_a_gradient_is_named_and_nothing_moves(
    digits: Dataset, clip: float | None
) -> None:
    torch.compiler.reset()
    model, objective = make_model(digits), lb.objectives.ELBO()
    model.posterior.register_parameter("unused", nn.Parameter(torch.zeros(())))
    dry_run(model, objective, digits)
    plain, made, before = Pass(model, objective).train(), adam(model, objective), weights(model)
    with pytest.raises(
        ValueError,
        match="1 parameters receive no gradient and would not be trained: posterior.unused",
    ):
        in_one_graph(plain, made, clip, "aot_eager")(
            digits.present("train", torch.arange(8)), {}, 0.1, 40
        )
    assert torch.equal(weights(model), before)


def test_in_double_precision_a_graph_moves_single_numbers_too(digits: Dataset) -> None:
    """torch loses what a graph does to a () of float64 on a CPU, as the moments of a normal's one
    scale are.
    """
    torch.compiler.reset()
    z_shape, x_shape = (2,), digits.event_shape
    model = lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(x_shape, z_shape),
        lb.likelihoods.Normal(z_shape, x_shape),
    ).double()
    objective = lb.objectives.ELBO(warmup=0.7)
    dry_run(model, objective, digits)
    x = digits.present("train", torch.arange(8)).double()
    assert any(p.ndim == 0 for p in model.parameters())
    assert same_in_one_graph(Pass(model, objective).train(), x, {}, "inductor", tolerance=1e-12)


def test_where_a_gradient_is_waited_for_the_pass_alone_is_a_graph_with_the_same_numbers(
    binary_digits: Dataset,
) -> None:
    """A hook that stops a parameter."""
    ends = []
    for compile in (False, True):
        torch.manual_seed(0)
        model, objective = make_model(binary_digits), lb.objectives.ELBO(warmup=0.5)
        still = next(model.posterior.parameters())
        still.register_hook(torch.zeros_like)
        before = still.detach().clone()
        lb.fit(
            model,
            objective,
            binary_digits,
            epochs=1,
            batch_size=500,
            compile=compile,
            progress=False,
        )
        assert torch.equal(still, before)
        ends.append(weights(model))
    assert not fits_one_graph(Pass(model, objective), adam(model, objective))
    assert (ends[0] - ends[1]).abs().mean() < 1e-6


def test_settings_of_adam_that_a_graph_knows_nothing_of_are_kept_out_of_it(digits: Dataset) -> None:
    model, objective = make_model(digits), lb.objectives.ELBO()
    made = adam(model, objective)
    assert fits_one_graph(Pass(model, objective), made)
    made.param_groups[0]["weight_decay"] = 0.1
    assert not fits_one_graph(Pass(model, objective), made)


def test_muon_stays_outside_of_the_graph(digits: Dataset) -> None:
    model, objective = make_model(digits), lb.objectives.ELBO()
    assert not fits_one_graph(
        Pass(model, objective), make_optimizer("muon", model, objective, 1e-3, fused=True)
    )


# what cannot be traced: how a flow of zuko builds its transforms, codes that move inside forward,
# and how torch's KL of two normals with full covariances asks for sizes
REFUSED = {"NeuralSpline", "RealNVP", "InverseAutoregressive", "FullNormal", "VectorQuantised"}
OF_CODES = {
    "Categorical": "Categorical",
    "Bernoulli": "Bernoulli",
    "IndependentCodes": "VectorQuantised",
    "AutoregressiveCodes": "VectorQuantised",
}


def each_part() -> list[tuple[str, ...]]:
    """Every part once, beside usual ones."""
    found = []
    for prior in composition.names("prior"):
        found.append((prior, OF_CODES.get(prior, "DiagonalNormal"), "Bernoulli", "ELBO"))
    for posterior in sorted(set(composition.names("posterior")) - set(OF_CODES.values())):
        found.append(("StandardNormal", posterior, "Bernoulli", "ELBO"))
    for likelihood in composition.names("likelihood"):
        found.append(("StandardNormal", "DiagonalNormal", likelihood, "ELBO"))
    for objective in composition.names("objective"):
        found.append(("StandardNormal", "DiagonalNormal", "Bernoulli", objective))
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("names", [" ".join(names) for names in each_part()])
def test_every_part_is_traced_to_the_same_numbers_or_refused_in_one_line(names: str) -> None:
    torch.compiler.reset()
    combination = tuple(names.split())
    data = composition.data_for(combination[2])
    model, objective = composition.compose(combination, data)
    dry_run(model, objective, data)
    plain, rows = Pass(model, objective).train(), torch.arange(8)
    x, beside = data.present("train", rows), data.context("train")[rows].given
    if REFUSED.intersection(combination):
        for whole in (
            Compiled(plain, len(rows)),
            in_one_graph(plain, adam(model, objective), None, "eager"),
        ):
            with pytest.raises(ValueError, match="cannot be compiled: .*leave compile off"):
                whole(x, beside, 0.3, 40)
    else:
        assert same_in_one_graph(plain, x, beside)


@pytest.mark.parametrize("objective", [lb.objectives.ELBO(), lb.objectives.IWAE(3)])
@pytest.mark.parametrize(
    "make", [m2, partial(hierarchical, "bottom_up"), partial(hierarchical, "top_down")]
)
def test_models_of_several_latents_are_traced_too(
    make: Callable[[], Model], objective: Objective
) -> None:
    torch.compiler.reset()
    model = make()
    x = torch.rand(8, *model.x_shape).round()
    with torch.no_grad():
        model(x)  # which finds the formulas of KLs, as the first meeting does
    assert same_in_one_graph(Pass(model, objective).train(), x, {})


TRANSFORMED = {
    "drawn": (UnitScale(16), Bernoulli()),
    "cut": (UnitScale(16), Threshold()),
}


@pytest.mark.parametrize("name", TRANSFORMED)
def test_a_graph_gathers_and_presents_the_examples_that_the_data_do(
    digits: Dataset, name: str
) -> None:
    """With conditions beside them, in double precision."""
    torch.compiler.reset()
    values = torch.randint(0, 16, (30, *digits.event_shape), dtype=torch.uint8)
    y = torch.randn(30, 3)
    data = Dataset(
        "levels", {"train": Split(values, y=y)}, digits.stored_support, TRANSFORMED[name]
    )
    x_shape, z_shape = data.event_shape, (2,)
    model = lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(x_shape, z_shape, condition=(3,)),
        lb.likelihoods.Normal(z_shape, x_shape, condition=(3,)),
    ).double()
    objective, context = lb.objectives.ELBO(), data.context("train")
    dry_run(model.float(), objective, data)
    all_gather = GatheringPass(
        model.double(), objective, lambda rows: (data.present("train", rows), context[rows])
    ).train()
    assert data.is_traced
    rows = torch.tensor([4, 29, 4, 0])
    assert same_in_one_graph(all_gather, rows, {}, "inductor", tolerance=1e-10)
    torch.manual_seed(2)
    found = all_gather(rows, {}, 0.5, 30).log["loss"]
    torch.manual_seed(2)
    x = data.present("train", rows).double()
    assert torch.equal(
        found, Pass(model, objective)(x, {"y": y[rows].double()}, 0.5, 30).log["loss"]
    )


class Counted(Transform):
    """Somebody's transform, which keeps something between calls."""

    calls = 0

    def __call__(
        self, values: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        self.calls += 1
        return values

    def support(self, before: Constraint) -> Constraint:
        return before


def test_a_transform_that_is_not_known_to_be_traced_stays_outside_of_the_graph(
    binary_digits: Dataset,
) -> None:
    own, before = Counted(), binary_digits.transforms
    data = dataclasses.replace(binary_digits, transforms=(*before, own))
    assert not data.is_traced
    assert binary_digits.is_traced
    assert not dataclasses.replace(
        data, transforms=(*before, Flip())
    ).is_traced  # the compiler would take minutes
    lb.fit(
        make_model(data),
        lb.objectives.ELBO(),
        data,
        epochs=1,
        batch_size=100,
        compile=True,
        progress=False,
    )
    assert own.calls > len(data["train"]) // 100


class Peeking(lb.networks.MLP):
    """Looks at a number on its way, which no graph can hold."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return super().forward(value if float(value.sum()) > 0 else -value)


def test_what_cannot_be_one_graph_is_refused_in_one_line_that_names_the_place(
    digits: Dataset, tmp_path: Path
) -> None:
    x_shape, z_shape = digits.event_shape, (2,)
    model = lb.VAE(
        lb.priors.StandardNormal(z_shape),
        lb.posteriors.DiagonalNormal(x_shape, z_shape, network=Peeking),
        lb.likelihoods.Normal(z_shape, x_shape),
    )
    with pytest.raises(
        ValueError, match=r"cannot be compiled: .*test_compiled.py line.*leave compile off"
    ) as refused:
        lb.fit(model, lb.objectives.ELBO(), digits, compile=True, progress=False)
    assert "\n" not in str(refused.value)


def test_without_a_compiler_it_is_refused_before_anything_is_written(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ValueError, match="compile needs a C\\+\\+ compiler, and 'no-such-compiler' is not there"
    ):
        lb.fit(
            make_model(digits),
            lb.objectives.ELBO(),
            digits,
            compile=True,
            progress=False,
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()


def test_compiling_leaves_the_validation_of_distributions_as_it_was() -> None:
    """torch's first compilation turns it off for all that the process does afterwards."""
    code = """
import sys, torch, lowerbound as lb
from lowerbound.training.compiled import Compiled
from lowerbound.training.passes import Pass
q, p = lb.posteriors.DiagonalNormal((3,), (2,)), lb.likelihoods.Bernoulli((2,), (3,))
model = lb.VAE(lb.priors.StandardNormal((2,)), q, p)
model(torch.zeros(4, 3))  # which finds the formula of the KL, as the first meeting does
one_pass = Compiled(Pass(model, lb.objectives.ELBO()), 4).train()
one_pass(torch.zeros(4, 3), {}, 0.0, 4)
try:
    torch.distributions.Normal(0.0, -1.0)
except ValueError:
    sys.exit(0)
sys.exit('a negative scale was taken')
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_validation_and_batches_of_another_size_take_the_plain_pass(binary_digits: Dataset) -> None:
    one_pass = Compiled(Pass(make_model(binary_digits), lb.objectives.ELBO()), 8)
    taken: list[int] = []
    one_pass.graph = lambda x, *_: taken.append(len(x))
    for training, size in ((True, 8), (True, 5), (False, 8)):
        one_pass.train(training)
        one_pass(binary_digits.present("train", torch.arange(size)), {}, 0.0, 100)
    assert taken == [8]


def test_validation_of_distributions_is_given_back_by_the_last_of_several_threads() -> None:
    """The first to come is the first to go, as no block within a block is."""
    before = Distribution._validate_args
    first, second = ExitStack(), ExitStack()
    first.enter_context(unvalidated())
    second.enter_context(unvalidated())
    first.close()
    assert not Distribution._validate_args
    second.close()
    assert Distribution._validate_args is before
