"""What is summed over an epoch."""

from __future__ import annotations

import torch

from lowerbound.training.sums import WAITING, Sums


def _added(asked: int | None) -> dict[str, torch.Tensor]:
    """The totals over steps that end with a smaller one; asked for after every so many steps, or at
    the end alone.
    """
    torch.manual_seed(0)
    sums = Sums(torch.device("cpu"))
    for step in range(2 * WAITING + 5):
        n = 50 if step < 2 * WAITING + 4 else 7
        values = {"loss": 100 * torch.randn(n), "elbo": torch.randn(n), "rate": torch.randn(())}
        sums.add(values, {"codes": torch.ones(4)}, n)
        sums.add({"skipped": torch.tensor(float(step % 3 == 0))})
        if asked and step % asked == 0:
            assert sums["loss"]
    assert sums.seen == 50 * (2 * WAITING + 4) + 7
    return sums.totals


def test_sums_do_not_depend_on_when_they_are_asked_for():
    """So that a run that was interrupted logs what another would have, to the last bit."""
    whole = _added(None)
    for asked in (1, 3, WAITING):
        assert {name: total.tolist() for name, total in _added(asked).items()} == {
            n: t.tolist() for n, t in whole.items()
        }


def test_sums_are_those_of_all_steps():
    torch.manual_seed(0)
    expected = {"loss": 0.0, "elbo": 0.0, "rate": 0.0}
    for step in range(2 * WAITING + 5):
        n = 50 if step < 2 * WAITING + 4 else 7
        for name, value in (
            ("loss", 100 * torch.randn(n)),
            ("elbo", torch.randn(n)),
            ("rate", torch.randn(())),
        ):
            expected[name] += float(value.double().sum())
    totals = _added(None)
    for name, value in expected.items():
        torch.testing.assert_close(float(totals[name]), value, rtol=1e-12, atol=0)
    assert float(totals["skipped"]) == sum(step % 3 == 0 for step in range(2 * WAITING + 5))
    assert totals["codes"].tolist() == [2 * WAITING + 5] * 4


def test_what_is_summed_is_not_what_an_array_holds_later():
    """Only what was added counts: the sums keep no part of the graph, and give arrays of their
    own.
    """
    sums, value = Sums(torch.device("cpu")), torch.ones(3, requires_grad=True)
    sums.add({"loss": 2 * value})
    first = sums.totals["loss"]
    assert not first.requires_grad
    sums.add({"loss": 2 * value})
    assert float(first) == 6
    assert float(sums.totals["loss"]) == 12
