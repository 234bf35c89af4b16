"""What every part must satisfy, whatever its role."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

import pytest
from torch import nn

from lowerbound.config.parts import construct, describe
from lowerbound.shapes import Shape


def package(part: nn.Module) -> str:
    """The package that a part comes from; one outside the library is found only where it is
    trusted.
    """
    return type(part).__module__.split(".")[0]


def with_condition(part: nn.Module, role: str, condition: int | list[int], **shapes: Shape) -> Any:
    """The same part with another condition; one that has no such setting is skipped."""
    settings = describe(part, role)
    if "condition" not in settings:
        pytest.skip("it cannot be conditioned on y")
    return construct(role, settings | {"condition": condition}, [package(part)], **shapes)


class PartContract(ABC):
    """What a part of any role can do: say how it was made, and be made again from that."""

    role: ClassVar[str]

    def check_describes_itself(self, part: nn.Module, **shapes: Shape) -> None:
        again = construct(self.role, describe(part, self.role), [package(part)], **shapes)
        assert describe(again, self.role) == describe(part, self.role)
        again.load_state_dict(part.state_dict())
