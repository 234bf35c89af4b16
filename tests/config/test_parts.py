"""Files name parts, never code: nothing outside lowerbound is imported unless its package is
trusted by name.
"""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.config.build import build_model, complete
from lowerbound.config.parts import ROLES, describe, find_part, foreign_packages
from lowerbound.config.settings import read_yaml, settings_of
from lowerbound.roles import Context


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Somebody else's package, which leaves a trace when it is imported."""
    name = "somebodyelse"
    (tmp_path / f"{name}.py").write_text(
        f"""
from collections.abc import Callable
from pathlib import Path
from torch import nn
import lowerbound as lb

Path({str(tmp_path / "imported")!r}).touch()

class Linear(nn.Module):
    def __init__(self, a, b, bias: bool = True):
        super().__init__()
        import math
        self.b, self.layer = b, nn.Linear(math.prod(a), math.prod(b), bias)
    def forward(self, x):
        return self.layer(x.flatten(1)).reshape(-1, *self.b)

def deep(a, b, width: int = 8) -> nn.Module:
    return lb.networks.MLP(a, b, hidden=(width, width))

def no_module(a, b):
    return 3

def untyped(a, b):
    return Linear(a, b)

class Prior(lb.priors.StandardNormal):
    pass

class Activated(Linear):
    def __init__(self, a, b, act: Callable[[object], object] = print, anything=None):
        super().__init__(a, b)
"""
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    ["os.system", "builtins.eval", "torch.nn.Linear", "../evil.Net", "/tmp/evil.py:Net", "a b", ""],
)
@pytest.mark.parametrize("role", ["prior", "likelihood", "network"])
def test_code_is_refused(role: str, name: str) -> None:
    with pytest.raises(ValueError, match="not trusted|unknown") as error:
        find_part(role, name)
    assert "\n" not in str(error.value)


def test_nothing_is_imported_before_it_is_trusted(package: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"--trust {package}"):
        find_part("prior", f"{package}.Prior")
    with pytest.raises(ValueError, match="not trusted"):
        find_part("prior", f"{package}.Prior", trust=["somebody", "else"])
    assert not (tmp_path / "imported").exists()
    find_part("prior", f"{package}.Prior", trust=[package])
    assert (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("prior", "Linear"),
        ("network", "no_module"),
        ("network", "missing"),
        ("likelihood", "Prior"),
    ],
)
def test_a_trusted_package_must_fill_the_role(package: str, role: str, name: str) -> None:
    with pytest.raises(ValueError, match="does not make a|was not found"):
        find_part(role, f"{package}.{name}", trust=[package])


@pytest.mark.parametrize("name", ["act", "anything"])
def test_trusting_a_package_lets_a_file_import_no_other(
    package: str, name: str, tmp_path: Path
) -> None:
    """A setting of a type that would have to be imported is refused before it is looked at."""
    (tmp_path / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'pwned')!r}).touch()\nrun = print"
    )
    for value in ("evil.run", {"class_path": "evil.run"}):
        config = {
            "posterior": {
                "part": "DiagonalNormal",
                "network": {"part": f"{package}.Activated", name: value},
            }
        }
        with pytest.raises(ValueError, match="cannot be set from a file"):
            complete(config, trust=[package])
    assert not (tmp_path / "pwned").exists()


def test_trusting_os_does_not_make_system_a_part() -> None:
    with pytest.raises(ValueError, match="does not make a Module"):
        find_part("network", "os.system", trust=["os"])


def test_a_users_networks_are_built_described_saved_and_loaded(
    package: str, tmp_path: Path
) -> None:
    config = {
        "latent": 2,
        "prior": f"{package}.Prior",
        "posterior": {"part": "DiagonalNormal", "network": {"part": f"{package}.deep", "width": 5}},
        "likelihood": {"part": "Normal", "network": f"{package}.Linear"},
    }
    model = build_model(complete(config, trust=[package]), (4,), [package])
    assert model.posterior.net.layers[0].out_features == 5
    assert describe(model.likelihood, "likelihood")["network"] == {
        "part": f"{package}.Linear",
        "bias": True,
    }
    assert foreign_packages({"a": describe(model.posterior, "posterior")}) == {package}

    data = lb.data.from_arrays(torch.randn(50, 4))
    with pytest.warns(UserWarning, match=rf"trust=\['{package}'\]"):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=f"--trust {package}"):
        lb.load(tmp_path / "run")
    again = lb.load(tmp_path / "run", trust=[package])
    x = data.examples("test")
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))


def test_what_no_file_can_name_is_refused_before_training(tmp_path: Path) -> None:
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal(
            (4,), (2,), network=lambda i, o: lb.networks.MLP(i, o, hidden=(3,))
        ),
        likelihood=lb.likelihoods.Normal((2,), (4,)),
    )
    data = lb.data.from_arrays(torch.randn(50, 4))
    lb.fit(model, lb.objectives.ELBO(), data, epochs=1, progress=False)
    with pytest.raises(ValueError, match="<lambda>.* define it at the top level of a module"):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_what_loading_would_refuse_is_refused_before_training(package: str, tmp_path: Path) -> None:
    untyped = find_untyped(package)
    model = lb.VAE(
        prior=lb.priors.StandardNormal((2,)),
        posterior=lb.posteriors.DiagonalNormal((4,), (2,), network=untyped),
        likelihood=lb.likelihoods.Normal((2,), (4,)),
    )
    data = lb.data.from_arrays(torch.randn(50, 4))
    with pytest.raises(ValueError, match="a function says what it makes: -> Module"):
        lb.fit(model, lb.objectives.ELBO(), data, epochs=1, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def find_untyped(package: str) -> object:
    return importlib.import_module(package).untyped


def test_a_factory_fixes_settings_by_name() -> None:
    part = lb.posteriors.DiagonalNormal(
        (4,), (2,), network=functools.partial(lb.networks.MLP, hidden=(7,))
    )
    assert describe(part, "posterior")["network"]["hidden"] == [7]
    with pytest.raises(ValueError, match="fix them by name"):
        describe(
            lb.posteriors.DiagonalNormal(
                (4,), (2,), functools.partial(lambda w, i, o: nn.Identity(), 3)
            ),
            "posterior",
        )


def test_a_network_that_returns_another_shape_is_named() -> None:
    part = lb.posteriors.DiagonalNormal((4,), (2,), network=lambda i, o: nn.Linear(4, 3))
    with pytest.raises(
        ValueError, match=r"Linear was built to map \(4,\) to \(2, 2\) but returned \(3,\)"
    ):
        part(torch.rand(5, 4), Context())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prior": "StandardNorml"}, "did you mean 'StandardNormal'"),
        (
            {"posterior": {"part": "DiagonalNormal", "netwrk": {"hidden": [3]}}},
            "did you mean --posterior.network",
        ),
        (
            {"posterior": {"part": "DiagonalNormal", "network": {"part": "MLP", "hidden": "wide"}}},
            "hidden: expected",
        ),
        (
            {"posterior": {"part": "DiagonalNormal", "network": {"part": "MPL"}}},
            "did you mean 'MLP'",
        ),
        ({"likelihood": {"part": "Normal", "levels": 3}}, "unknown option --likelihood.levels"),
        ({"objective": {"part": "ELBO", "beta": "big"}}, "--objective.beta: expected float"),
        ({"latent": "many"}, "--latent: expected"),
        ({"prior": {"part": ["os.system"]}}, "unknown prior"),
        ({"prior": 3}, "prior must be a part"),
    ],
)
def test_a_wrong_configuration_is_one_line(config: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        complete(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "a: !!python/name:os.system",
        "a: [",
        "- 1",
        "3",
        "1: 2",
        "a: !custom x",
    ],
)
def test_yaml_holds_plain_values_only(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="file.yaml"):
        read_yaml(text, "file.yaml")
    assert not (tmp_path / "pwned").exists()


def test_every_setting_of_every_part_has_help() -> None:
    """Its own, or that of the class of its role."""
    for role in ROLES.values():
        for name in role.package.__all__:
            for setting in settings_of(getattr(role.package, name)):
                assert setting.help, f"{name} says nothing of {setting.name}"


def test_what_a_part_does_not_explain_is_explained_by_its_role_and_its_own_words_win() -> None:
    def of(part: object) -> str:
        (condition,) = (s for s in settings_of(part) if s.name == "condition")  # type: ignore[arg-type]
        return str(condition.help)

    assert of(lb.posteriors.FullNormal).startswith("what the part is told of each example, y: None")
    assert of(lb.posteriors.FullNormal) == of(lb.likelihoods.Bernoulli)
    assert of(lb.priors.ConditionalNormal).startswith("C for one of C classes")
