"""The loop: what it guarantees, not how fast it is."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.draw import Draw
from lowerbound.objective import Objective, Step, Terms
from lowerbound.runs.run import Run
from lowerbound.training.passes import not_finite
from tests.conftest import make_model, make_objective

ELBO = lb.objectives.ELBO


def quiet(model: lb.VAE, data: Dataset, **settings: object) -> lb.History:
    return lb.fit(model, ELBO(), data, **{"epochs": 2, "progress": False, **settings})


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def without_times(records: list[dict[str, object]]) -> list[dict[str, object]]:
    return [
        {k: v for k, v in r.items() if k not in ("seconds", "examples_per_second")} for r in records
    ]


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    binary_digits: Dataset,
) -> None:
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = make_model(binary_digits)
        quiet(model, binary_digits, seed=seed)
        results.append(weights(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_global_random_state_is_left_alone(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    before = torch.get_rng_state()
    quiet(model, binary_digits)
    assert torch.equal(before, torch.get_rng_state())


def test_the_history_is_that_of_the_elbo(binary_digits: Dataset) -> None:
    history = quiet(make_model(binary_digits), binary_digits, epochs=3)
    assert [record["epoch"] for record in history.epochs] == [1, 2, 3]
    for record in history.epochs:
        for split in ("train", "valid"):
            values = record[split]
            assert values["elbo"] == pytest.approx(-values["rate"] - values["distortion"], rel=1e-5)
            assert values["loss"] == pytest.approx(-values["elbo"], rel=1e-5)
    assert history.epochs[-1]["step"] == 3 * math.ceil(1437 / 128)
    assert history.epochs[0]["rate_estimator"] == "closed form"


def test_the_last_partial_batch_counts_in_full(binary_digits: Dataset) -> None:
    """At learning rate zero, nearly, the mean over an epoch does not depend on the batch size."""
    means = []
    for batch_size in (1437, 1000, 100):
        torch.manual_seed(0)
        model = make_model(binary_digits)
        history = quiet(model, binary_digits, epochs=1, batch_size=batch_size, learning_rate=1e-12)
        means.append(history.epochs[0]["train"]["distortion"])
    # one draw an example: its noise over 1,437 examples is far below 0.1 nats for a fresh network
    assert max(means) - min(means) < 0.1


def test_the_best_weights_on_validation_are_kept(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    history = quiet(model, binary_digits, epochs=20, learning_rate=0.05)
    losses = history.series("loss", "valid")
    assert history.best_epoch == 1 + losses.index(min(losses))
    assert history.best_epoch < 20, "the case must be one where the best is not the last"
    # the weights the model is left with are those: validation's own noise gives the same loss again
    again = lb.fit(model, ELBO(), binary_digits, epochs=1, learning_rate=1e-12, progress=False)
    assert again.series("loss", "valid")[0] == pytest.approx(min(losses), rel=1e-5)


def test_patience_stops_early(binary_digits: Dataset) -> None:
    history = quiet(
        make_model(binary_digits), binary_digits, epochs=100, learning_rate=0.05, patience=2
    )
    assert len(history.epochs) == history.best_epoch + 2 < 100


def test_without_validation_the_last_weights_count_and_patience_is_refused() -> None:
    data = lb.data.load("digits", binarize="threshold", splits="train_test")
    history = quiet(make_model(data), data)
    assert history.epochs[0]["valid"] is None
    assert history.best_epoch == 2
    with pytest.raises(ValueError, match="needs a validation split"):
        quiet(make_model(data), data, patience=3)


def test_the_test_split_is_not_touched(binary_digits: Dataset) -> None:
    without = Dataset(
        None,
        {s: binary_digits[s] for s in ("train", "valid")},
        binary_digits.stored_support,
        binary_digits.transforms,
    )
    torch.manual_seed(0)
    one = make_model(binary_digits)
    quiet(one, binary_digits)
    torch.manual_seed(0)
    other = make_model(binary_digits)
    quiet(other, without)
    assert torch.equal(weights(one), weights(other))


class Exploding(ELBO):
    """Gives a gradient that is not finite at chosen steps."""

    def __init__(self, at: tuple[int, ...]) -> None:
        super().__init__()
        self.at, self.step = at, 0

    def terms(self, draw: object, step: Step) -> Terms:
        terms = super().terms(draw, step)
        if not torch.is_grad_enabled():
            return terms
        self.step += 1
        return Terms(terms.loss * (math.nan if self.step in self.at else 1.0), terms.log)


def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    history = lb.fit(model, Exploding(at=(3, 5)), binary_digits, epochs=2, progress=False)
    assert [record["skipped_steps"] for record in history.epochs] == [2, 0]
    assert history.epochs[0]["train"]["loss"] is None  # not an average of what was left
    assert bool(weights(model).isfinite().all())
    assert history.epochs[1]["train"]["loss"] < 45


def test_an_epoch_without_a_finite_gradient_is_an_error(binary_digits: Dataset) -> None:
    with pytest.raises(
        ValueError, match="all 12 steps of epoch 1 gave gradients that are not finite"
    ):
        lb.fit(
            make_model(binary_digits),
            Exploding(at=tuple(range(100))),
            binary_digits,
            epochs=1,
            progress=False,
        )


def test_a_parameter_without_a_gradient_is_named(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    model.posterior.forgotten = nn.Parameter(torch.zeros(3))
    with pytest.raises(ValueError, match="1 parameters receive no gradient.*posterior.forgotten"):
        quiet(model, binary_digits)
    model.posterior.forgotten.requires_grad_(False)
    quiet(model, binary_digits, epochs=1)


@pytest.mark.parametrize(
    ("schedule", "in_the_middle"), [("cosine", 0.5), ("linear", 0.5), ("linear", 0.8)]
)
def test_a_falling_schedule_ends_at_zero(
    binary_digits: Dataset, schedule: str, in_the_middle: float
) -> None:
    history = quiet(
        make_model(binary_digits), binary_digits, epochs=10, schedule=schedule, learning_rate=2e-3
    )
    rates = [record["learning_rate"] for record in history.epochs]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0
    # both schedules pass the middle there, and the linear one all its course
    at = round(10 * (1 - in_the_middle)) - 1
    assert rates[at] == pytest.approx(2e-3 * in_the_middle, rel=0.02)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train(binary_digits: Dataset, precision: str, tmp_path: Path) -> None:
    model = make_model(binary_digits)
    history = quiet(model, binary_digits, precision=precision, epochs=3, out=tmp_path / "run")
    assert history.series("loss")[-1] < history.series("loss")[0]
    assert next(model.parameters()).dtype == (
        torch.float64 if precision == "64-true" else torch.float32
    )
    again = lb.load(tmp_path / "run")
    assert torch.equal(weights(again), weights(model))
    assert lb.evaluate(again, binary_digits, samples=5).nll.n == 180


def test_clipping_bounds_the_gradient(binary_digits: Dataset) -> None:
    norms = []

    class Watching(torch.optim.Adam):
        """Keeps the norm of each gradient that it is given."""

        def step(self, closure: object = None) -> None:
            gradients = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(float(nn.utils.get_total_norm(gradients)))
            super().step()

    quiet(make_model(binary_digits), binary_digits, optimizer=Watching, clip=0.1, epochs=1)
    assert max(norms) <= 0.1 + 1e-5
    norms.clear()
    quiet(make_model(binary_digits), binary_digits, optimizer=Watching, epochs=1)
    assert max(norms) > 0.1


def test_large_gradients_that_are_finite_are_not_skipped() -> None:
    assert not_finite([torch.tensor([3e19, 1.0])]) == 0
    for bad in (float("inf"), float("nan")):
        assert not_finite([torch.tensor([1.0]), torch.tensor([bad, 1.0])]) == 1


def test_under_mixed_precision_the_data_and_their_densities_stay_in_float32(
    digits: Dataset,
) -> None:
    """Half precision is for the inside of networks: log-densities of hundreds of nats would be
    rounded to whole ones.
    """
    seen = []

    class Watching(ELBO):
        """Keeps what it is shown."""

        def terms(self, draw: Draw, step: Step) -> Terms:
            seen.append(draw)
            return super().terms(draw, step)

    model = make_model(digits, likelihood="Categorical", levels=17)
    lb.fit(model, Watching(kl="sampled"), digits, epochs=1, precision="bf16-mixed", progress=False)
    for draw in seen:
        assert {draw.log_px.dtype, draw.log_qz.dtype, draw.log_pz.dtype, draw.log_m.dtype} == {
            torch.float32
        }
    values = torch.cat([draw.log_px.flatten() for draw in seen])
    assert (
        len((values * 4 - (values * 4).round()).abs().unique()) > 100
    )  # not multiples of a quarter


@pytest.mark.parametrize(
    "objective",
    [
        ELBO(),
        ELBO(kl="sampled", samples=2),
        ELBO(free_bits=0.1, warmup=0.5),
        ELBO(path_gradient=True),
        *(make_objective(name) for name in lb.objectives.__all__ if name != "ELBO"),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_mixed_precision_is_in_force_whatever_the_objective(
    binary_digits: Dataset, objective: Objective
) -> None:
    """Every network computes in half precision, in training and in validation, and none is quietly
    left out.
    """
    model = make_model(binary_digits)
    seen: dict[nn.Module, list[tuple[torch.dtype, bool]]] = {}

    def keep(layer: nn.Module, args: object, out: torch.Tensor) -> None:
        seen.setdefault(layer, []).append((out.dtype, torch.is_grad_enabled()))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        layer.register_forward_hook(keep)
    lb.fit(model, objective, binary_digits, epochs=1, precision="bf16-mixed", progress=False)
    for layer in layers:
        after_the_first_meeting = seen[layer][1:]  # of model and objective, on one example
        assert set(after_the_first_meeting) == {(torch.bfloat16, True), (torch.bfloat16, False)}


def test_the_objective_is_in_training_mode_in_every_epoch(binary_digits: Dataset) -> None:
    modes = []

    class Watching(ELBO):
        """Keeps its mode."""

        def terms(self, draw: Draw, step: Step) -> Terms:
            modes.append((torch.is_grad_enabled(), self.training))
            return super().terms(draw, step)

    lb.fit(make_model(binary_digits), Watching(), binary_digits, epochs=2, progress=False)
    assert all(
        grad == training for grad, training in modes[1:]
    )  # the first is the meeting of model and objective


def test_progress_runs_from_zero_to_one(binary_digits: Dataset) -> None:
    seen = []

    class Watching(ELBO):
        """Keeps the progress of training."""

        def terms(self, draw: Draw, step: Step) -> Terms:
            if torch.is_grad_enabled():
                seen.append(step.progress)
            return super().terms(draw, step)

    lb.fit(make_model(binary_digits), Watching(), binary_digits, epochs=2, progress=False)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": -3}, "epochs is -3"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"clip": -1.0}, "clip"),
        ({"seed": -1}, "seed"),
        ({"patience": 0}, "patience"),
        ({"epochs": 2.5}, "whole number"),
        ({"epochs": "3"}, "whole number"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bf16"}, "did you mean 'bf16-mixed'"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not there; this machine has cpu"),
        ({"device": "tpu"}, "device 'tpu' is not there"),
        ({"precision": "16-mixed", "device": "cpu"}, "needs a GPU"),
        ({"resume": True}, "say which"),
        ({"overwrite": True}, "say which"),
        ({"resume": True, "overwrite": True, "out": "x"}, "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused(
    settings: dict[str, object], message: str, binary_digits: Dataset, tmp_path: Path
) -> None:
    if "resume" not in settings and "overwrite" not in settings:
        settings = {**settings, "out": tmp_path / "run"}
    with pytest.raises((ValueError, TypeError), match=message):
        quiet(make_model(binary_digits), binary_digits, **settings)
    assert not (tmp_path / "run").exists()


def test_data_outside_the_support_are_refused_with_the_remedies(digits: Dataset) -> None:
    with pytest.raises(
        ValueError,
        match=(
            r"Bernoulli is a density on \{0, 1\}.*binarise.*another "
            r"likelihood.*BinaryCrossEntropy"
        ),
    ):
        quiet(make_model(digits), digits)
    with pytest.raises(
        ValueError, match=r"examples of shape \(1, 8, 8\), and the model was built for \(4,\)"
    ):
        quiet(
            lb.VAE(
                prior=lb.priors.StandardNormal((2,)),
                posterior=lb.posteriors.DiagonalNormal((4,), (2,)),
                likelihood=lb.likelihoods.Normal((2,), (4,)),
            ),
            digits,
        )


@pytest.mark.filterwarnings("ignore:the model has parts from tests")
def test_resuming_at_any_step_ends_with_the_same_weights_and_metrics(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    """Stop after a step, by the signal that Ctrl-C sends, and go on: bit for bit the run that was
    not interrupted.
    """

    def train(out: Path, stop_at: int | None, resume: bool) -> lb.VAE:
        torch.manual_seed(0)
        model = make_model(binary_digits)
        objective = Stopping(stop_at)
        lb.fit(model, objective, binary_digits, epochs=3, out=out, resume=resume, progress=False)
        return model

    whole = train(tmp_path / "whole", None, False)
    for stop_at in (1, 12, 19, 35):
        out = tmp_path / f"stopped-{stop_at}"
        with pytest.raises(KeyboardInterrupt, match="go on with: lowerbound train --resume --out"):
            train(out, stop_at, False)
        resumed = train(out, None, True)
        assert torch.equal(weights(whole), weights(resumed)), stop_at
        assert without_times(Run(out).metrics()) == without_times(Run(tmp_path / "whole").metrics())
        assert (out / "model.safetensors").read_bytes() == (
            tmp_path / "whole" / "model.safetensors"
        ).read_bytes()


class Stopping(ELBO):
    """Sends this process the signal of Ctrl-C at one training step."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.count, self.signal_at = 0, stop_at

    @property
    def stop_at(self) -> None:
        """Not part of the configuration: the same run, interrupted or not."""
        return None

    def terms(self, draw: object, step: Step) -> Terms:
        self.count += torch.is_grad_enabled()
        if self.count == self.signal_at and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGINT)
        return super().terms(draw, step)


def test_resuming_a_finished_run_changes_nothing(binary_digits: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = make_model(binary_digits)
    quiet(model, binary_digits, out=tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    torch.manual_seed(1)
    again = make_model(binary_digits)
    history = quiet(again, binary_digits, out=tmp_path / "run", resume=True)
    assert torch.equal(weights(model), weights(again))
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == metrics
    assert len(history.epochs) == 2


def test_resuming_with_other_settings_or_data_is_refused(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run")
    with pytest.raises(ValueError, match="learning_rate: 0.001 then, 0.1 now"):
        quiet(
            make_model(binary_digits),
            binary_digits,
            out=tmp_path / "run",
            resume=True,
            learning_rate=0.1,
        )
    with pytest.raises(ValueError, match=r"latent: \[3\] then, \[4\] now"):
        quiet(make_model(binary_digits, 4), binary_digits, out=tmp_path / "run", resume=True)
    other = lb.data.load("digits", binarize="threshold", seed=5)
    with pytest.raises(ValueError, match="other data or settings .*data.seed: 0 then, 5 now"):
        quiet(make_model(other), other, out=tmp_path / "run", resume=True)


def test_a_folder_that_holds_a_run_is_not_overwritten_unasked(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run")
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds another run"):
        quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run", seed=3)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    (tmp_path / "run" / "notes.txt").write_text("mine")
    quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run", seed=3, overwrite=True)
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != before
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_two_trainings_on_one_folder_are_refused(binary_digits: Dataset, tmp_path: Path) -> None:
    with (
        Run(tmp_path / "run").locked(),
        pytest.raises(ValueError, match="in use by another process"),
    ):
        quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run")


def test_training_works_outside_the_main_thread(binary_digits: Dataset) -> None:
    results = []
    thread = threading.Thread(
        target=lambda: results.append(quiet(make_model(binary_digits), binary_digits, epochs=1))
    )
    thread.start()
    thread.join()
    assert len(results[0].epochs) == 1


class Weighted(Stopping):
    """Has a parameter of its own, and a statistic of the batch."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__(stop_at)
        self.offset = nn.Parameter(torch.tensor(1.0))

    def terms(self, draw: Draw, step: Step) -> Terms:
        terms = super().terms(draw, step)
        return Terms(terms.loss, terms.log, batch_loss=self.offset**2)


@pytest.mark.filterwarnings("ignore:the model has parts from tests")
def test_an_objective_with_parameters_is_trained_saved_and_resumed(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    results = []
    for stop_at in (None, 17):
        torch.manual_seed(0)
        model, objective, out = (
            make_model(binary_digits),
            Weighted(stop_at),
            tmp_path / str(stop_at),
        )
        if stop_at:
            with pytest.raises(KeyboardInterrupt):
                lb.fit(model, objective, binary_digits, epochs=2, out=out, progress=False)
            model, objective = make_model(binary_digits), Weighted()
        lb.fit(
            model, objective, binary_digits, epochs=2, out=out, resume=bool(stop_at), progress=False
        )
        results.append(torch.cat([weights(model), weights(objective)]))
    assert objective.offset.item() != 1.0
    assert torch.equal(*results)
    record = Run(out).metrics()[-1]["train"]
    assert record["loss"] > -record["elbo"]  # the statistic of the batch counts in what is logged


def normalised(in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> nn.Module:
    """A network with statistics of its own, and with noise of its own."""
    return nn.Sequential(
        nn.Flatten(),
        nn.BatchNorm1d(64),
        nn.Dropout(0.1),
        lb.networks.MLP((64,), out_shape, hidden=(8,)),
    )


class Killed(BaseException):
    """The process is no more."""


@contextmanager
def killed_at(point: int) -> Iterator[list[int]]:
    """Every operation that changes the disk is a point at which the process may die; nothing
    happens after it.
    """
    count = [0]

    def dying(operation: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(operation)
        def call(*args: object, **settings: object) -> object:
            count[0] += 1
            if count[0] >= point:
                raise Killed
            return operation(*args, **settings)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (Path, "replace"),
            (Path, "unlink"),
            (Path, "mkdir"),
            (Path, "rmdir"),
            (os, "fsync"),
            (tempfile, "mkstemp"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        yield count


@pytest.mark.filterwarnings("ignore:the model has parts from tests")
@pytest.mark.parametrize("over_another", [False, True])
def test_killed_at_any_moment_and_resumed_it_ends_as_if_it_had_not_been(
    over_another: bool, binary_digits: Dataset, tmp_path: Path
) -> None:
    def train(out: Path, seed: int = 0, **settings: bool) -> None:
        torch.manual_seed(seed)
        x_shape = binary_digits.event_shape
        model = lb.VAE(
            prior=lb.priors.StandardNormal((2,)),
            posterior=lb.posteriors.DiagonalNormal(x_shape, (2,), network=normalised),
            likelihood=lb.likelihoods.Bernoulli(
                (2,), x_shape, network=functools.partial(lb.networks.MLP, hidden=(8,))
            ),
        )
        shared = {"epochs": 2, "batch_size": 1437, "progress": False, "seed": seed}
        lb.fit(model, ELBO(), binary_digits, out=out, **shared, **settings)

    def content(out: Path) -> dict[str, object]:
        # after a kill behind the last commit the tensors lie under another name
        tensors = json.loads((out / "checkpoint" / "state.json").read_text())["tensors"]
        return {
            "config": (out / "config.yaml").read_bytes(),
            "model": (out / "model.safetensors").read_bytes(),
            "tensors": (out / "checkpoint" / tensors).read_bytes(),
            "metrics": without_times(Run(out).metrics()),
        }

    whole = tmp_path / "whole"
    train(whole)
    expected = content(whole)
    # beginning over another run is done after so many operations
    points = 16 if over_another else 1000
    for point in range(1, points):
        out = tmp_path / f"killed-{point}"
        if over_another:
            train(out, seed=1)
        with killed_at(point) as count, suppress(Killed):
            train(out, overwrite=over_another)
        if count[0] < point:
            break
        try:
            train(out, resume=Run(out).exists)
        # killed before its own configuration was there: the folder still is the other run's
        except ValueError as error:
            assert over_another and "cannot be resumed with other data or settings" in str(error)  # noqa: PT017, PT018
            train(out, overwrite=True)
        assert content(out) == expected, point
        shutil.rmtree(out)
    assert point > 14


def test_the_checkpoint_holds_tensors_and_json_only(binary_digits: Dataset, tmp_path: Path) -> None:
    quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run")
    folder = tmp_path / "run" / "checkpoint"
    state = json.loads((folder / "state.json").read_text())
    tensors = load_file(folder / state["tensors"])
    assert {path.name for path in folder.iterdir()} == {"state.json", state["tensors"]}
    assert {name.split(".")[0] for name in tensors} == {"model", "optimizer", "random", "best"}
    assert state["epoch"] == 3


def test_a_checkpoint_that_names_a_file_elsewhere_is_refused(
    binary_digits: Dataset, tmp_path: Path
) -> None:
    quiet(make_model(binary_digits), binary_digits, out=tmp_path / "run")
    file = tmp_path / "run" / "checkpoint" / "state.json"
    file.write_text(file.read_text().replace('"state-', '"../../state-'))
    with pytest.raises(ValueError, match="outside its folder"):
        Run(tmp_path / "run").checkpoint()


def test_a_diverged_training_is_an_error_and_not_a_model(tmp_path: Path) -> None:
    data = lb.data.from_arrays(torch.randn(60, 3))
    with pytest.raises(ValueError, match="diverged|not finite"):
        quiet(make_model(data, likelihood="Normal"), data, learning_rate=1e30, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), ELBO(), None), "model must be a Model, not Linear"),
        (
            (None, ELBO, None),
            "objective must be a Objective, not the class ELBO: make an object of it",
        ),
        ((None, ELBO(), torch.zeros(3)), "data must be a Dataset, not Tensor"),
    ],
)
def test_arguments_of_another_kind_are_named(
    arguments: tuple[object, ...], message: str, binary_digits: Dataset
) -> None:
    model, objective, data = arguments
    with pytest.raises(TypeError, match=message):
        lb.fit(
            model or make_model(binary_digits), objective, binary_digits if data is None else data
        )


def test_a_network_that_fails_is_named_before_training(binary_digits: Dataset) -> None:
    class Failing(nn.Module):
        """Does not work."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("boom")

    model = make_model(binary_digits)
    model.posterior.net = Failing()
    with pytest.raises(ValueError, match="the model fails on a single example: RuntimeError: boom"):
        quiet(model, binary_digits)
    model.posterior.net = nn.Flatten(0)
    with pytest.raises(ValueError, match="Flatten was built to map"):
        quiet(model, binary_digits)
