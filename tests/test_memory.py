"""What cannot fit is refused with both sizes in the line."""

from __future__ import annotations

import os

import pytest

from lowerbound import memory


def test_both_sizes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "physical_memory", lambda: int(23.4 * 2**30))
    memory.check_fits(23 * 2**30, "a.npy")
    with pytest.raises(ValueError, match=r"a.npy needs 80.0 GiB, this machine has 23.4 GiB of memory; keep fewer"):
        memory.check_fits(80 * 2**30, "a.npy")


def test_a_system_that_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.physical_memory() is None
    memory.check_fits(2**80, "a.npy")
