"""The average of the weights: its recursion; it is what is validated, saved and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.training.callbacks import Training
from tests.conftest import make_model


def vector(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


class Trace(lb.Callback):
    """Keeps the weights of every step."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_train_begin(self, training: Training) -> None:
        self.weights.append(vector(training.model))

    def on_step_end(self, training: Training) -> None:
        self.weights.append(vector(training.model))


def test_what_is_left_is_the_average_of_the_weights_of_all_steps() -> None:
    data = lb.data.load("digits", binarize="threshold", splits="train_test")
    model, trace = make_model(data), Trace()
    lb.fit(model, lb.objectives.ELBO(), data, epochs=2, ema=0.9, callbacks=[trace], progress=False)
    average = trace.weights[0].double()
    for step, weights in enumerate(trace.weights[1:]):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights.double()
    # 24 additions in float32
    assert torch.allclose(vector(model).double(), average, rtol=0, atol=1e-6)
    assert not torch.allclose(vector(model), trace.weights[-1], rtol=0, atol=1e-4)


def test_training_itself_is_not_moved_by_the_average(binary_digits: Dataset) -> None:
    traces = []
    for ema in (None, 0.99):
        torch.manual_seed(0)
        trace = Trace()
        lb.fit(make_model(binary_digits), lb.objectives.ELBO(), binary_digits, epochs=2, ema=ema,
               callbacks=[trace], progress=False)  # fmt: skip
        traces.append(torch.stack(trace.weights))
    assert torch.equal(*traces)


def test_the_average_is_validated_and_saved(binary_digits: Dataset, tmp_path: Path) -> None:
    model = make_model(binary_digits)
    history = lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=3, ema=0.99,
                     out=tmp_path / "run", progress=False)  # fmt: skip
    assert torch.equal(vector(lb.load(tmp_path / "run")), vector(model))
    # validation's own noise gives the same loss again
    again = lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=1, learning_rate=1e-12,
                   progress=False)  # fmt: skip
    losses = history.series("loss", "valid")
    assert again.series("loss", "valid")[0] == pytest.approx(min(losses), rel=1e-5)


def test_it_is_resumed_bit_for_bit(binary_digits: Dataset, tmp_path: Path) -> None:
    results = []
    for name, is_interrupted in (("whole", False), ("resumed", True)):
        how = {"epochs": 3, "ema": 0.99, "out": tmp_path / name, "progress": False}
        if is_interrupted:
            with pytest.raises(lb.CallbackError):
                _train(binary_digits, callbacks=[Stop(at=17)], **how)
        model = _train(binary_digits, resume=is_interrupted, **how)
        results.append(vector(model))
    assert torch.equal(*results)


class Stop(lb.Callback):
    """Ends a training in the middle of an epoch."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, training: Training) -> None:
        if training.step == self.at:
            raise RuntimeError("enough")


def _train(data: Dataset, **how: Any) -> lb.VAE:
    torch.manual_seed(0)
    model = make_model(data)
    lb.fit(model, lb.objectives.ELBO(), data, **how)
    return model


@pytest.mark.parametrize("ema", [0, 1, 1.5, -0.1, float("nan")])
def test_a_decay_outside_its_range_is_refused(binary_digits: Dataset, ema: float) -> None:
    with pytest.raises(ValueError, match="ema is .*: it must lie between 0 and 1"):
        _train(binary_digits, ema=ema)


def test_a_resumed_run_must_have_the_same_decay(binary_digits: Dataset, tmp_path: Path) -> None:
    how: Mapping[str, Any] = {"epochs": 1, "out": tmp_path / "run", "progress": False}
    _train(binary_digits, ema=0.9, **how)
    with pytest.raises(ValueError, match=r"cannot be resumed .*ema: 0.9 then, None now"):
        _train(binary_digits, resume=True, **how)
