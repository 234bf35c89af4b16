"""What cannot fit is refused with both sizes in the line."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from lowerbound.utils import memory


def test_both_sizes_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "physical_memory", lambda: int(23.4 * 2**30))
    memory.check_fits(23 * 2**30, "a.npy")
    with pytest.raises(
        ValueError, match=r"a.npy needs 80.0 GiB, this machine has 23.4 GiB of memory; keep fewer"
    ):
        memory.check_fits(80 * 2**30, "a.npy")


def test_a_system_that_does_not_tell_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", unknown)
    assert memory.physical_memory() is None
    memory.check_fits(2**80, "a.npy")


FAULTS = """
import resource, torch
from lowerbound.utils.allocator import retain_freed_memory

def fetched() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.zeros(10 * 2**20)  # 40 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

fetched()
outside = fetched()
with retain_freed_memory():
    fetched()
    with retain_freed_memory():
        pass
    inside, before = fetched(), held()
print(outside, inside, before - held())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what is told is glibc's allocator")
def test_freed_arrays_are_kept_in_a_block_and_given_back_after_it() -> None:
    def run(**environment: str) -> list[int]:
        told = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MALLOC_", "GLIBC_"))
        }
        said = subprocess.run(
            [sys.executable, "-c", FAULTS],
            check=True,
            capture_output=True,
            text=True,
            env={**told, **environment},
        )
        return [int(word) for word in said.stdout.split()]

    outside, inside, given_back = run()
    assert inside < outside / 20
    assert given_back > 20 * 2**20
    outside, inside, _ = run(MALLOC_TOP_PAD_="0")  # the user says how memory is allocated
    assert inside > outside / 2
