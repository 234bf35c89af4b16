"""Every closed-form KL equals its Monte Carlo estimate and is never negative."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.compatibility import conflict
from lowerbound.distributions import FullNormal, as_multivariate
from lowerbound.distributions.kl import closed_form_kl, kl_per_dimension
from lowerbound.roles import Context
from tests.composition import build, choices, names
from tests.contracts import moved, within

means = st.floats(-3, 3)
scales = st.floats(0.1, 3)


@settings(max_examples=50, deadline=None)
@given(means, scales, means, scales)
def test_the_closed_form_agrees_with_monte_carlo_and_is_never_negative(
    m1: float, s1: float, m2: float, s2: float
) -> None:
    q = Independent(Normal(torch.tensor([m1, 0.0]), torch.tensor([s1, 1.0])), 1)
    p = Independent(Normal(torch.tensor([m2, 0.0]), torch.tensor([s2, 1.0])), 1)
    kl = closed_form_kl(q, p)
    assert kl is not None
    assert kl.item() >= -1e-6
    torch.manual_seed(0)
    z = q.sample((20000,))
    # 5 standard errors: 50 examples are tried at each run, and the weights can be skewed
    assert within(q.log_prob(z) - p.log_prob(z), kl, errors=5)


FORMS = ("independent", "full", "multivariate")  # the forms in which a normal meets another


def normal(form: str, loc: list[float], log_scale: list[float], below: list[float]) -> Distribution:
    """A normal in two dimensions, in float64; below the diagonal of its factor stands a number,
    where the form has one.
    """
    mean, scale = (torch.tensor(v, dtype=torch.float64) for v in (loc, log_scale))
    if form == "independent":
        return Independent(Normal(mean, scale.exp()), 1)
    factor = torch.diag(scale.exp())
    factor[1, 0] = below[0]
    return (
        FullNormal(mean, factor, (2,))
        if form == "full"
        else MultivariateNormal(mean, scale_tril=factor)
    )


def pairs(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=2, max_size=2)


@pytest.mark.parametrize("p_form", FORMS)
@pytest.mark.parametrize("q_form", FORMS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_normals_of_every_form_agree_with_monte_carlo(
    q_form: str, p_form: str, data: st.DataObject
) -> None:
    parameters = (pairs(-3, 3), pairs(-2, 1), pairs(-2, 2))
    q, p = (normal(form, *(data.draw(s) for s in parameters)) for form in (q_form, p_form))
    kl = closed_form_kl(q, p)
    assert kl.shape == ()
    assert kl >= -1e-12
    torch.manual_seed(0)
    z = q.sample((10_000,))
    # 5 standard errors: the difference of two quadratic forms is skewed, though little in a mean of
    # 10,000
    assert within(q.log_prob(z) - p.log_prob(z), kl, errors=5)


Form = tuple[str, dict[str, object]]  # the name of a part, and settings

PRIORS: list[Form] = [(name, form) for name in names("prior") for form in choices("prior", name)]


def words(form: Form) -> str:
    """Such as Normal-covariance=full."""
    name, settings = form
    return "-".join([name, *(f"{key}={value}" for key, value in settings.items())])


@pytest.mark.parametrize("posterior", names("posterior"))
@pytest.mark.parametrize("prior", PRIORS, ids=words)
def test_every_posterior_to_every_prior_agrees_with_monte_carlo(
    posterior: str, prior: Form
) -> None:
    encoder = moved(build("posterior", posterior, (4,), (2, 2))).double()
    other = moved(build("prior", prior[0], (4,), (2, 2), **prior[1])).double()
    if conflict(encoder, other):
        pytest.skip("the two are refused")
    x = 100 + 50 * torch.randn(3, 4).double()
    q, p = encoder(x, Context()), other(Context(y=torch.tensor([0, 1, 1])), encoder)
    kl = closed_form_kl(q, p)
    if kl is None:
        pytest.skip("the pair has no closed form, and is estimated from the draws")
    assert kl.shape == (3,)
    assert bool((kl >= 0).all())
    z = q.sample((20_000,))
    difference = q.log_prob(z) - p.log_prob(z)
    for b in range(3):
        assert within(difference[:, b], kl[b], errors=5)


def test_every_prior_is_met_in_every_form_that_its_settings_give_it() -> None:
    assert {name for name, _ in PRIORS} == set(lb.priors.__all__)
    assert {"Normal-covariance=full", "Categorical-learned=True"} <= set(map(words, PRIORS))


def test_of_a_distribution_to_itself_is_zero_in_16_dimensions() -> None:
    """In every form that it can be written, and against every other."""
    loc, scale = torch.randn(16).double(), torch.rand(16).double() + 0.1
    forms = (
        Independent(Normal(loc, scale), 1),
        FullNormal(loc, torch.diag(scale), (16,)),
        MultivariateNormal(loc, scale_tril=torch.diag(scale)),
    )
    for q in forms:
        for p in forms:
            assert closed_form_kl(q, p).abs().item() < 1e-12


def test_the_notebooks_example() -> None:
    """q = N(1, 2), p = N(0, 1): 1.3069 nats."""
    kl = closed_form_kl(
        Normal(torch.tensor(1.0), torch.tensor(2.0)), Normal(torch.tensor(0.0), torch.tensor(1.0))
    )
    assert round(kl.item(), 4) == 1.3069


def covariance(n: int) -> torch.Tensor:
    a = torch.randn(n, n)
    return a @ a.T + 0.1 * torch.eye(n)


def test_full_and_diagonal_normals_meet_in_every_combination() -> None:
    full = FullNormal(
        torch.randn(5, 2, 2), torch.linalg.cholesky(covariance(4)).expand(5, 4, 4), (2, 2)
    )
    other = FullNormal(torch.randn(2, 2), torch.linalg.cholesky(covariance(4)), (2, 2))
    diagonal = Independent(Normal(torch.randn(2, 2), torch.rand(2, 2) + 0.2), 2)
    for q, p in ((full, other), (full, diagonal), (diagonal, other), (diagonal, diagonal)):
        kl = closed_form_kl(q, p)
        z = q.sample((40000,))
        difference = (q.log_prob(z) - p.log_prob(z)).reshape(40000, -1)
        for b in range(difference.shape[1]):
            assert kl.flatten()[b] >= 0
            assert within(difference[:, b], kl.flatten()[b])


def test_the_parts_of_a_factorised_kl_sum_to_it() -> None:
    q = Independent(Normal(torch.randn(5, 2, 3), torch.rand(5, 2, 3) + 0.1), 2)
    p = Independent(Normal(torch.zeros(2, 3), torch.ones(2, 3)), 2)
    parts = kl_per_dimension(q, p)
    assert parts.shape == (5, 2, 3)
    assert torch.allclose(parts.sum((1, 2)), closed_form_kl(q, p))
    assert kl_per_dimension(as_multivariate(q), p) is None
