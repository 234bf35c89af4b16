"""Runs side by side: paired errors are those of the differences, and what cannot be paired is
not.
"""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from tests.conftest import make_model


def test_a_difference_is_that_of_each_example(binary_digits: Dataset) -> None:
    models = [make_model(binary_digits, latent) for latent in (2, 8)]
    first, second = (lb.evaluate(model, binary_digits, samples=20) for model in models)
    found = lb.compare({"a": first, "b": second}).differences["b"]
    difference = second.values["nll"].double() - first.values["nll"].double()
    assert found["nll"].value == pytest.approx(second.nll.value - first.nll.value)
    assert found["nll"].stderr == pytest.approx(float(difference.std()) / math.sqrt(180))
    assert set(found) == {"nll", "elbo", "rate", "distortion"}
    assert found["elbo"].value == pytest.approx(-found["rate"].value - found["distortion"].value)


def test_models_that_agree_on_what_is_hard_are_told_apart_by_pairs(binary_digits: Dataset) -> None:
    """The same model with another seed: its nll differs by the noise of the draws alone, far less
    than over examples.
    """
    model = make_model(binary_digits)
    lb.fit(model, lb.objectives.ELBO(), binary_digits, epochs=20, progress=False)
    first, second = (lb.evaluate(model, binary_digits, samples=100, seed=seed) for seed in (0, 1))
    paired = lb.compare({"a": first, "b": second}).differences["b"]["nll"]
    assert abs(paired.value) < 4 * paired.stderr
    assert paired.stderr < 0.1 * first.nll.stderr


def test_other_examples_and_other_kinds_of_likelihood_are_not_paired(
    digits: Dataset, binary_digits: Dataset
) -> None:
    categorical = lb.evaluate(
        make_model(digits, likelihood="Categorical", levels=17), digits, samples=5
    )
    normal = lb.evaluate(make_model(digits, likelihood="Normal"), digits, samples=5)
    bernoulli = lb.evaluate(make_model(binary_digits), binary_digits, samples=5)
    score = lb.evaluate(make_model(digits, likelihood="BinaryCrossEntropy"), digits, samples=5)
    assert [e.kind for e in (categorical, normal, bernoulli, score)] == [
        "probability", "density", "probability", "score"
    ]  # fmt: skip
    found = lb.compare(
        {"categorical": categorical, "normal": normal, "bernoulli": bernoulli, "score": score}
    )
    assert set(found.differences["normal"]) == set(found.differences["score"]) == {"rate"}
    assert found.differences["bernoulli"] == {}
    assert len(found.notes) == 3
    assert "normal is a density and that of categorical a probability" in found.notes[0]
    assert "bernoulli was measured on other examples" in found.notes[1]
    text = str(found)
    assert all(name in text for name in found.evaluations)
    assert "bits_per_dim" in text
    json.dumps(found.as_json(), allow_nan=False)


def test_a_density_of_a_column_is_not_compared_with_probabilities_of_it() -> None:
    """A normal of shrinking scale gives a yes or no any density: no reason to call it the better
    model of a table of which another gives probabilities.
    """
    torch.manual_seed(0)
    x = torch.cat([torch.randn(60, 2), (torch.rand(60, 1) < 0.5).float()], 1)
    data = lb.data.from_arrays(x.numpy())
    Group, parts = lb.roles.Group, lb.likelihoods
    groups = {
        "numbers": Group([0, 1], parts.Normal),
        "class": Group([2], partial(parts.Normal, scale=1e-3)),
    }
    likelihoods = {
        "densities": parts.Product((1,), (3,), groups),
        "mixed": parts.Product((1,), (3,), groups | {"class": Group([2], parts.Bernoulli)}),
        "normal": parts.Normal((1,), (3,)),
    }
    evaluations = {
        name: lb.evaluate(
            lb.VAE(
                lb.priors.StandardNormal((1,)), lb.posteriors.DiagonalNormal((3,), (1,)), likelihood
            ),
            data,
            split="train",
            samples=5,
        )
        for name, likelihood in likelihoods.items()
    }
    assert {each.kind for each in evaluations.values()} == {"density"}
    mixed = ("Lebesgue", "Lebesgue", "counting")
    assert [each.base_measure for each in evaluations.values()] == [
        ("Lebesgue",), mixed, ("Lebesgue",)
    ]  # fmt: skip
    assert evaluations["mixed"].as_json()["base_measure"] == list(mixed)
    found = lb.compare(evaluations)
    assert set(found.differences["mixed"]) == {"rate"}
    assert set(found.differences["normal"]) == {"nll", "elbo", "rate", "distortion"}
    (note,) = found.notes
    assert "of column 2 one gives probabilities and the other a density" in note


def test_the_examples_are_known_by_their_content(binary_digits: Dataset) -> None:
    model = make_model(binary_digits)
    whole = lb.evaluate(model, binary_digits, samples=2)
    assert (
        whole.sha256 == lb.evaluate(make_model(binary_digits, 5), binary_digits, samples=2).sha256
    )
    assert whole.sha256 != lb.evaluate(model, binary_digits, samples=2, examples=100).sha256
    assert whole.sha256 != lb.evaluate(model, binary_digits, split="valid", samples=2).sha256


def test_clear_differences_are_marked(binary_digits: Dataset) -> None:
    untrained, trained = make_model(binary_digits), make_model(binary_digits)
    lb.fit(trained, lb.objectives.ELBO(), binary_digits, epochs=10, progress=False)
    text = str(
        lb.compare(
            {
                "a": lb.evaluate(untrained, binary_digits, samples=5),
                "b": lb.evaluate(trained, binary_digits, samples=5),
            }
        )
    )
    (row,) = [line for line in text.splitlines()[3:] if line.startswith("b ")]
    assert row.split()[3].endswith("*")  # nll, far below


def test_refusals(binary_digits: Dataset) -> None:
    one = lb.evaluate(make_model(binary_digits), binary_digits, samples=2)
    with pytest.raises(ValueError, match="at least two"):
        lb.compare({"a": one})
    kept = lb.Evaluation(**{**vars(one), "values": {}})
    with pytest.raises(ValueError, match="b has no values of single examples"):
        lb.compare({"a": one, "b": kept})


def test_many_runs_keep_their_order() -> None:
    data = lb.data.from_arrays(torch.rand(30, 3).numpy())
    models = {name: make_model(data, 2, "Normal") for name in ("z", "a", "m")}
    found = lb.compare(
        {name: lb.evaluate(model, data, samples=2) for name, model in models.items()}
    )
    assert list(found.evaluations) == ["z", "a", "m"]
    assert list(found.differences) == ["a", "m"]
