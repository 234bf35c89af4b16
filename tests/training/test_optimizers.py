"""Muon: its steps are orthogonal and of Adam's size, for matrices only, and it skips and resumes as
Adam does.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.draw import Draw
from lowerbound.objective import Step, Terms
from lowerbound.training.callbacks import Training
from lowerbound.training.optimizers import (
    Muon,
    OptimizerFactory,
    OptimizerName,
    layer_matrices,
    layer_weights,
    make_optimizer,
    orthogonal,
)
from lowerbound.training.sums import Sums
from tests.conftest import make_model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_the_direction_has_the_gradients_singular_vectors_and_values_near_one(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    u, s, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    steep = u @ torch.diag(torch.linspace(1.0, 100.0, len(s))) @ vh
    along = u.T @ orthogonal(steep).float() @ vh.T
    assert bool(((along.diagonal() > 0.5) & (along.diagonal() < 1.3)).all())
    assert (along - along.diagonal().diag()).abs().max() < 0.1  # products in bfloat16, 15 of them
    assert not orthogonal(torch.zeros(shape)).any()


@pytest.mark.parametrize(
    ("shape", "off"), [((60, 100), 1e-5), ((200, 60), 1e-5), ((100, 150), 0.02), ((400, 100), 0.02)]
)
def test_however_it_is_computed_it_is_five_of_jordans_polynomials(
    shape: tuple[int, int], off: float
) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape) @ torch.diag(torch.logspace(0, -1, shape[1]))
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    assert (orthogonal(matrix).double() - x).norm() < off * x.norm()


@pytest.mark.parametrize("common", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("decades", [1.0, 2.0, 3.0])
def test_rows_of_different_size_in_one_direction_do_not_make_a_step_explode(
    common: float, decades: float
) -> None:
    """The gradient of a layer before whose units one direction dominates, as in training: rounding
    must not add up.

    The polynomials multiplied with each other before they meet X, which is faster, are wrong by
    factors of hundreds here.
    """
    torch.manual_seed(0)
    size = torch.logspace(0, -decades, 80)[:, None]
    for _ in range(5):
        matrix = size * (torch.randn(80, 300) + common * torch.randn(80, 1) * torch.randn(1, 300))
        assert torch.linalg.matrix_norm(orthogonal(matrix).float(), 2) < 1.3


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (32, 8, 3, 3)])
def test_a_step_has_the_size_of_adams(shape: tuple[int, ...]) -> None:
    """Root mean square 0.2 of the learning rate, where AdamW's is found to lie (Liu et al.
    2025).
    """
    torch.manual_seed(0)
    p = nn.Parameter(torch.zeros(shape))
    optimizer = Muon([{"params": [p], "is_matrices": True}], lr=0.1, fused=True)
    p.grad = torch.randn(shape) * 1e-4  # whatever the gradient's size
    optimizer.step()
    assert 0.7 * 0.02 < float(p.detach().square().mean().sqrt()) < 1.2 * 0.02


def test_a_matrix_goes_where_its_small_gradients_point_as_fast_as_where_the_large_ones_do() -> None:
    """Least squares with directions a thousand times steeper than others: Adam, which sees entries,
    is left behind.
    """
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(16, 16))[0]
    curvature = q @ torch.diag(torch.logspace(-3, 0, 16)) @ q.T
    left = {}
    for is_matrices in (True, False):
        w = nn.Parameter(torch.eye(16))
        optimizer = Muon([{"params": [w], "is_matrices": is_matrices}], lr=0.02, fused=True)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 200)
            w.grad = curvature @ w.detach()
            optimizer.step()
        left[is_matrices] = float(w.detach().square().sum())
    assert left[True] < 0.2 * left[False]


def test_only_weights_of_layers_are_matrices(binary_digits: Dataset) -> None:
    torch.manual_seed(0)
    x_shape, z_shape = binary_digits.event_shape, (2,)
    model = lb.VAE(
        lb.priors.VampPrior(z_shape, x_shape, components=3),
        lb.posteriors.DiagonalNormal(x_shape, z_shape, network=lb.networks.Conv),
        lb.likelihoods.Bernoulli(z_shape, x_shape),
    )
    objective = lb.objectives.FactorVAE(z_shape)
    optimizer = make_optimizer("muon", model, objective, 1e-3, fused=True)
    is_matrix = {
        id(p): group["is_matrices"] for group in optimizer.param_groups for p in group["params"]
    }
    for name, p in model.named_parameters():
        assert is_matrix[id(p)] == (name.endswith("weight") and p.ndim > 1), name
    assert {p.ndim for p in layer_matrices(model)} == {2, 4}
    assert not any(is_matrix[id(p)] for p in objective.parameters())
    assert {group["betas"] for group in optimizer.param_groups if not group["is_matrices"]} == {
        (0.9, 0.999),
        (0.5, 0.9),
    }


def test_a_model_without_matrices_is_refused(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    for p in layer_matrices(model):
        p.requires_grad_(False)
    with pytest.raises(ValueError, match="weights of linear and convolutional layers.*use 'adam'"):
        lb.fit(model, lb.objectives.ELBO(), binary_digits, optimizer="muon", progress=False)


def test_a_skipped_step_leaves_everything_as_it_was() -> None:
    torch.manual_seed(0)
    matrix, bias = nn.Parameter(torch.randn(5, 3)), nn.Parameter(torch.randn(5))
    groups = [{"params": [matrix], "is_matrices": True}, {"params": [bias], "is_matrices": False}]
    optimizer = Muon(groups, lr=0.1, fused=True)
    for skipped in (0.0, 1.0):
        before = [
            v.clone() for p in (matrix, bias) for v in (p.detach(), *optimizer.state[p].values())
        ]
        for p in (matrix, bias):
            p.grad = torch.full_like(p, torch.nan if skipped else 1.0)
        optimizer.found_inf = torch.tensor(skipped)
        optimizer.step()
        after = [v for p in (matrix, bias) for v in (p.detach(), *optimizer.state[p].values())]
        assert (len(before) == len(after) and all(map(torch.equal, before, after))) == bool(skipped)


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """A training that is stopped in a step, after its checkpoint of the one before."""
    own, steps = Sums.add, 0

    def add(sums: Sums, *values: object) -> None:
        nonlocal steps
        steps += torch.is_grad_enabled()  # not those of validation
        if steps == step:
            raise KeyboardInterrupt
        own(sums, *values)

    # what raises comes in the place of the yield
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(Sums, "add", add)
        yield


def test_a_run_by_muon_is_resumed_bit_for_bit(binary_digits: Dataset, tmp_path: Path) -> None:
    how = {
        "optimizer": "muon",
        "schedule": "linear",
        "epochs": 2,
        "progress": False,
        "checkpoint_seconds": 0.0,
    }
    ends = []
    for at in (0, 17):
        torch.manual_seed(0)
        model = make_model(binary_digits)
        out = tmp_path / str(at)
        if at:
            with stopped_at(at):
                lb.fit(model, lb.objectives.ELBO(), binary_digits, **how, out=out)
        model = make_model(binary_digits) if at else model
        history = lb.fit(
            model, lb.objectives.ELBO(), binary_digits, **how, out=out, resume=bool(at)
        )
        ends.append((weights(model), history.series("loss")))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[0][1] == ends[1][1]
    assert ends[0][1][1] < ends[0][1][0]


def _after(data: Dataset, **how: object) -> torch.Tensor:
    torch.manual_seed(0)
    model = make_model(data)
    lb.fit(model, lb.objectives.ELBO(), data, **{"epochs": 1, "progress": False, **how})
    return weights(model)


def test_an_optimiser_of_the_users_own_does_what_the_named_one_does(binary_digits: Dataset) -> None:
    ours = _after(binary_digits)
    theirs = _after(binary_digits, optimizer=partial(torch.optim.Adam, fused=True))
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, _after(binary_digits, optimizer=torch.optim.RMSprop))


@pytest.mark.parametrize(
    "optimizer", [torch.optim.RMSprop, partial(torch.optim.SGD, momentum=0.9), torch.optim.ASGD]
)
def test_an_optimiser_of_the_users_own_is_resumed_bit_for_bit(
    binary_digits: Dataset, optimizer: OptimizerFactory, tmp_path: Path
) -> None:
    how = {"epochs": 2, "learning_rate": 1e-4, "optimizer": optimizer}
    whole = _after(binary_digits, **how, out=tmp_path / "whole")
    with pytest.raises(lb.CallbackError):
        _after(binary_digits, **how, out=tmp_path / "run", callbacks=[Ending(at=15)])
    assert torch.equal(whole, _after(binary_digits, **how, out=tmp_path / "run", resume=True))


class Ending(lb.Callback):
    """Ends a training at a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, training: Training) -> None:
        if training.step == self.at:
            raise RuntimeError("enough")


def test_an_optimiser_of_the_users_own_skips_what_is_not_finite(binary_digits: Dataset) -> None:
    class Exploding(lb.objectives.ELBO):
        """Gives no finite gradient at the third step."""

        steps = 0

        def terms(self, draw: Draw, step: Step) -> Terms:
            terms = super().terms(draw, step)
            self.steps += torch.is_grad_enabled()
            return Terms(terms.loss * (float("nan") if self.steps == 3 else 1.0), terms.log)

    model = make_model(binary_digits)
    history = lb.fit(
        model,
        Exploding(),
        binary_digits,
        epochs=1,
        optimizer=torch.optim.RMSprop,
        progress=False,
    )
    assert history.epochs[0]["skipped_steps"] == 1
    assert bool(weights(model).isfinite().all())


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_weight_decay_shrinks_the_weights_of_layers_and_nothing_else(
    binary_digits: Dataset, optimizer: OptimizerName
) -> None:
    """Decoupled: a step multiplies a weight by 1 - lr x decay, beside what the gradient does, which
    the first step alone shows exactly.
    """
    torch.manual_seed(0)
    model = make_model(binary_digits)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    how = {"epochs": 1, "batch_size": 1437, "learning_rate": 1e-2, "optimizer": optimizer}
    after = {}
    for decay in (0.0, 0.5):
        trained = copy.deepcopy(model)
        lb.fit(
            trained,
            lb.objectives.ELBO(),
            binary_digits,
            weight_decay=decay,
            progress=False,
            **how,
        )
        after[decay] = dict(trained.named_parameters())
    for name, before in start.items():
        shrunk = after[0.0][name] - 1e-2 * 0.5 * before * (before.ndim > 1)
        assert torch.allclose(after[0.5][name], shrunk, rtol=0, atol=1e-6), name


def test_weight_decay_is_resumed_bit_for_bit(binary_digits: Dataset, tmp_path: Path) -> None:
    how = {"epochs": 2, "weight_decay": 0.1}
    whole = _after(binary_digits, **how)
    with pytest.raises(lb.CallbackError):
        _after(binary_digits, **how, out=tmp_path / "run", callbacks=[Ending(at=15)])
    assert torch.equal(whole, _after(binary_digits, **how, out=tmp_path / "run", resume=True))


def test_the_weights_of_recurrent_layers_decay_too() -> None:
    layers = nn.ModuleList([nn.GRU(3, 4), nn.Linear(4, 2), nn.LayerNorm(2)])
    names = {id(p): name for name, p in layers.named_parameters()}
    decayed = {names[id(p)] for p in layer_weights(layers)}
    assert decayed == {"0.weight_ih_l0", "0.weight_hh_l0", "1.weight"}


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": "sgd"}, ValueError, "unknown optimizer 'sgd'"),
        ({"optimizer": 3}, TypeError, "optimizer is 3: it must be 'adam', 'muon', or a function"),
        ({"optimizer": lambda groups, lr: groups}, TypeError, "optimizer makes a list, and torch"),
        ({"optimizer": torch.optim.SGD, "weight_decay": 0.1}, ValueError, "fix it in your own"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay is -1.0: it must be a number, at least"),
        ({"weight_decay": "much"}, TypeError, "weight_decay is 'much': it must be a number"),
    ],
)
def test_settings_of_optimisers_that_make_no_sense_are_refused(
    binary_digits: Dataset, settings: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _after(binary_digits, **settings)
