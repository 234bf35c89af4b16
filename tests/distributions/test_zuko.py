"""zuko edits torch when it is imported: here torch stays as it was, and zuko as its other users
expect it.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings

import pytest
import torch

import lowerbound as lb

SNAPSHOT = """
import sys, torch
from torch.distributions import *
import torch.distributions as td
def state():
    modules = td, td.transforms, td.constraints, td.kl, td.distribution
    classes = [one for module in modules for one in vars(module).values() if isinstance(one, type)]
    attributes = {c: (c.__name__, dict(vars(c))) for c in classes}
    return attributes, dict(td.kl._KL_REGISTRY), torch.get_rng_state().tolist()
before = state()
"""
FLOWS = """
import lowerbound as lb
prior, posterior = lb.priors.NeuralSpline((2,)), lb.posteriors.InverseAutoregressive((4,), (2,))
model = lb.VAE(prior, posterior, lb.likelihoods.Normal((2,), (4,)))
"""
CASES = {
    "torch is as it was": "state0 = before[:2]\n" + FLOWS + "assert state()[:2] == state0",
    "validation stays on": FLOWS
    + "try:\n    Normal(0.0, -1.0)\n    raise SystemExit(1)\nexcept ValueError:\n    pass",
    "nothing is imported before a flow is made": "import lowerbound as lb\n"
    "lb.priors.StandardNormal((2,))\n"
    "lb.priors.RealNVP, lb.posteriors.Planar((4,), (2,))\n"
    "assert not [name for name in sys.modules if 'zuko' in name]",
    "zuko is not imported for others": FLOWS + "assert 'zuko' not in sys.modules",
    "zuko after it works as zuko": FLOWS + "import zuko\nflow = zuko.flows.NSF(3)()\n"
    "z, p = flow.rsample_and_log_prob((5,))\nassert torch.allclose(flow.log_prob(z), p, atol=1e-4) "
    "and td.Distribution._validate_args is False",
    "zuko before it stays as it was": "import zuko\nbefore = state()\n"
    + FLOWS
    + "assert state()[:2] == before[:2]\n"
    "zuko.flows.NSF(3)().rsample_and_log_prob((5,))",
    "it still works with validation on and off": FLOWS
    + "x = torch.rand(5, 4)\nfor on in (True, False):\n"
    "    td.Distribution.set_default_validate_args(on)\n    model(x, "
    "samples=3).log_w.sum().backward()",
}


@pytest.mark.parametrize("case", CASES)
def test_in_a_process_of_its_own(case: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", SNAPSHOT + CASES[case]], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-1000:]


def test_without_zuko_the_command_that_brings_it_is_named(tmp_path) -> None:
    """One line and exit code 2, on the command line too, before anything is trained."""
    hidden = (
        "import importlib.util, sys\nfind = importlib.util.find_spec\nimportlib.util.find_spec = "
        "lambda name, *rest: None if name == 'zuko' else find(name, *rest)\nfrom lowerbound.cli "
        "import main\nsys.exit(main(['train', 'digits', '--prior', 'RealNVP', '--out', "
        f"{str(tmp_path / 'run')!r}]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2, run.stderr
    assert 'pip install "lowerbound[flows]"' in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "run").exists()


def test_what_is_made_of_it_can_be_pickled_and_compiled() -> None:
    part = lb.priors.RealNVP((3,))
    z = torch.randn(5, 3)
    again = pickle.loads(pickle.dumps(part))
    expected = part(lb.roles.Context()).log_prob(z)
    assert torch.equal(again(lb.roles.Context()).log_prob(z), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo looks at the gradient of what is no leaf
        log_p = torch.compile(lambda z: part(lb.roles.Context()).log_prob(z), backend="eager")(z)
    assert torch.allclose(log_p, expected, atol=1e-5)
    # torch switches validation off by itself when it compiles
    assert "call_and_ladj" not in vars(torch.distributions.Transform)
