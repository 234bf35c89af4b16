from __future__ import annotations

from contextlib import ExitStack

import pytest
from torch import nn

from lowerbound.utils.modes import evaluating


def test_every_part_gets_its_own_mode_back() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout())
    module[1].eval()

    def fail() -> None:
        with evaluating(module):
            assert not any(part.training for part in module.modules())
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [part.training for part in module.modules()] == [True, True, False]


def test_a_block_within_a_block_gives_back_what_it_found() -> None:
    module = nn.Sequential(nn.Dropout(), nn.Dropout())
    with evaluating(module):
        module[0].train()
        with evaluating(module):
            assert not module[0].training
        assert [part.training for part in module.modules()] == [False, True, False]
    assert all(part.training for part in module.modules())


def test_the_last_of_several_threads_gives_the_modes_back() -> None:
    """The first to come is the first to go, as no block within a block is."""
    module = nn.Dropout()
    first, second = ExitStack(), ExitStack()
    first.enter_context(evaluating(module))
    second.enter_context(evaluating(module))
    first.close()
    assert not module.training
    second.close()
    assert module.training
