"""Every combination of parts, and the pages that list them: ``python -m tests.composition`` writes
docs/parts.md, and the table of parts in README.md.

Parts are read off the exports of their folders, so that a new one is composed with all others
without being named here.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import torch

import lowerbound as lb
from lowerbound.compatibility import Capability, Composed, Requirement, conflict
from lowerbound.data.dataset import Dataset
from lowerbound.objective import Objective
from lowerbound.roles import Group, Groups, Part
from lowerbound.shapes import Shape, numel
from lowerbound.supports import contains

ROOT = Path(__file__).parents[1]
ROLES = ("prior", "posterior", "likelihood", "objective")
FOLDERS: dict[str, ModuleType] = {
    "prior": lb.priors,
    "posterior": lb.posteriors,
    "likelihood": lb.likelihoods,
    "objective": lb.objectives,
    "network": lb.networks,
    "model": lb.models,
}
SMALL = {
    "components": 3,
    "samples": 2,
    "codes": 4,
    "width": 8,
}  # settings that make a part small enough to be composed hundreds of times
EXAMPLES = 60
CLASSES = 10
Z_SHAPE = (2,)

Combination = tuple[str, ...]  # the names of a prior, a posterior, a likelihood and an objective


def names(role: str) -> list[str]:
    """The parts of a role."""
    return [name for name in FOLDERS[role].__all__ if inspect.isclass(getattr(FOLDERS[role], name))]


def everything() -> list[Combination]:
    """The full product."""
    return list(product(*(names(role) for role in ROLES)))


def covering() -> list[Combination]:
    """Combinations in which every two parts of different roles meet at least once, greedily few."""
    whole = everything()
    bits: dict[object, int] = {}  # of each pair of parts, so that a set of pairs is a number
    pairs = {
        c: sum(1 << bits.setdefault(pair, len(bits)) for pair in combinations(enumerate(c), 2))
        for c in whole
    }
    left, chosen = (1 << len(bits)) - 1, []
    # first those that live: two parts that fit each other must not have met beside a third that is
    # refused alone
    for pool in ([c for c in whole if not refused(c)], whole):
        while left:
            best = max(pool, key=lambda c: (pairs[c] & left).bit_count())
            if not pairs[best] & left:
                break
            chosen.append(best)
            left &= ~pairs[best]
    return chosen


def refused(combination: Combination) -> str | None:
    """Why two of the parts exclude each other, by what they declare; None where they do not."""
    return conflict(*(_declared(role, name) for role, name in zip(ROLES, combination, strict=True)))


@dataclass(frozen=True)
class Refusal:
    """Parts of one role that need, for the same reason, what some of another role do not offer."""

    role: str
    needy: tuple[str, ...]
    need: Requirement
    offer: Capability
    without: tuple[str, ...]


def refusals() -> list[Refusal]:
    """What parts declare against each other; likewise parts together."""
    needing: dict[tuple[str, Requirement, Capability], list[str]] = {}
    for role in ROLES:
        for name in names(role):
            for offer, need in _declared(role, name).requirements.items():
                needing.setdefault((role, need, offer), []).append(name)
    return [
        Refusal(role, tuple(needy), need, offer, without)
        for (role, need, offer), needy in needing.items()
        if (
            without := tuple(
                n for n in names(offer.role) if offer not in _declared(offer.role, n).capabilities
            )
        )
    ]


@cache
def _declared(role: str, name: str) -> Composed:
    """A part of some shape, which is asked for nothing but its declarations."""
    part = build(role, name, (4,))
    assert isinstance(part, (Part, Objective)), f"{name} is exported as {role}, and is none"
    return part


def data_for(likelihood: str) -> Dataset:
    """Digits, in the form on which the likelihood is a density."""
    for options in ({"binarize": "threshold"}, {}, {"dequantize": True}):
        data = lb.data.load("digits", splits="all", **options)
        part = build("likelihood", likelihood, data.event_shape)
        if contains(part.support, data.support):
            x, y = data.examples("all")[:EXAMPLES], data["all"].y
            assert y is not None
            labels = [str(i) for i in range(CLASSES)]
            return lb.data.from_arrays(
                x.numpy(), y[:EXAMPLES], splits="train_valid_test", classes=labels
            )
    raise AssertionError(f"no form of the digits suits {likelihood}")


def build(
    role: str, name: str, x_shape: Shape, z_shape: Shape = Z_SHAPE, **settings: object
) -> object:
    """A small part of a role."""
    part = getattr(FOLDERS[role], name)
    parameters = inspect.signature(part).parameters
    needed = {"x_shape": x_shape, "z_shape": z_shape, "levels": 17, "groups": halves(x_shape)}
    arguments = {key: value for key, value in (needed | SMALL).items() if key in parameters}
    if "condition" in parameters and parameters["condition"].default is inspect.Parameter.empty:
        arguments["condition"] = CLASSES
    return part(**(arguments | settings))


def choices(role: str, name: str) -> list[dict[str, object]]:
    """The settings by which a part has several forms: none first, then each other value of a
    setting that is True or False, or one of several words, by itself.
    """
    part = getattr(FOLDERS[role], name)
    types, forms = get_type_hints(part.__init__), [{}]
    for parameter in inspect.signature(part).parameters.values():
        of = types[parameter.name]
        words = (False, True) if of is bool else get_args(of) if get_origin(of) is Literal else ()
        forms += [{parameter.name: word} for word in words if word != parameter.default]
    return forms


def halves(event_shape: Shape) -> Groups:
    """Two groups of entries with likelihoods that both suit grey levels."""
    n = numel(event_shape)
    of_levels = partial(lb.likelihoods.Categorical, levels=17)
    return {
        "first": Group(range(n // 2), of_levels),
        "second": Group(range(n // 2, n), lb.likelihoods.Normal),
    }


def compose(combination: Combination, data: Dataset) -> tuple[lb.VAE, Objective]:
    """A model and an objective."""
    torch.manual_seed(0)
    parts = {
        role: build(role, name, data.event_shape)
        for role, name in zip(ROLES, combination, strict=True)
    }
    objective = parts.pop("objective")
    return lb.VAE(**parts), objective


def page() -> str:
    """The content of docs/parts.md."""
    counts = [f"{len(names(role))} {plural(role)}" for role in ROLES]
    whole = everything()
    refused_ones = sum(refused(combination) is not None for combination in whole)
    lines = [
        "# Parts",
        "",
        "Written by `python -m tests.composition` from the parts themselves; a test compares it.",
        "",
        f"{' x '.join(counts)} are {len(whole)} models,",
        f"each with any of {len(names('network'))} networks or one of your own.",
        f"{refused_ones} of them are refused in one line, because two parts exclude each other",
        "as they are by default (`compatibility.py`). The table below says why.",
        f"Every two parts meet in {len(covering())} combinations. `make test` trains, evaluates,",
        "samples, saves, reloads, interrupts and resumes each of these; `make slow` does so with",
        "all.",
        "",
        "## What excludes what",
        "",
        "| part | what it does | without what it needs | what fits |",
        "|---|---|---|---|",
        *(
            row(
                f"{r.role} {listing(r.needy)}",
                r.need.reason,
                f"{r.offer.role} {listing(r.without)}: {r.offer.lack}",
                f"{r.need.instead}, or {r.offer.remedy}",
            )
            for r in refusals()
        ),
    ]
    for role, folder in FOLDERS.items():
        lines += [
            "",
            f"## {plural(role).capitalize()}",
            "",
            "| part | formula | source | file |",
            "|---|---|---|---|",
        ]
        for name in names(role):
            part = getattr(folder, name)
            file = Path(inspect.getsourcefile(part) or "").relative_to(ROOT)
            lines.append(
                f"| `{name}` | {formula(part)} | {source(part)} | [{file.name}](../{file}) |"
            )
    return "\n".join(lines) + "\n"


ROWS = re.compile(r"(?<=<!-- parts -->\n\n).*?(?=\n\n<!-- end of parts -->)", re.DOTALL)
"""What is written between two comments in README.md."""


def readme() -> str:
    """The content of README.md with its table of parts as they are now."""
    lines = ["| role | parts |", "|---|---|"]
    lines += [
        row(f"[{role}](docs/parts.md#{plural(role)})", listing(names(role))) for role in FOLDERS
    ]
    return ROWS.sub(lambda _: "\n".join(lines), (ROOT / "README.md").read_text("utf-8"))


def row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def listing(parts: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in parts)


def plural(role: str) -> str:
    return f"{role}s"


def formula(part: type) -> str:
    """The first sentence of the module's docstring."""
    text = (sys.modules[part.__module__].__doc__ or "").strip().split("\n\n")[0]
    return " ".join(text.split()).replace("|", "\\|").rstrip(".").removesuffix(":")


def source(part: type) -> str:
    """The papers that the docstrings name."""
    text = " ".join(f"{part.__doc__} {sys.modules[part.__module__].__doc__}".split())
    name = r"[A-Z][\w'é-]+"
    paper = (
        rf"(?<![\w-]){name}(?:(?:, | and ){name})*(?: et al\.?)? "
        rf"(?:19|20)\d\d(?:, (?:arXiv )?\d{{4}}\.\d{{4,5}})?"
    )
    unique = list(dict.fromkeys(each.strip() for each in re.findall(paper, text)))
    return "; ".join(unique) or "–"


if __name__ == "__main__":
    (ROOT / "docs" / "parts.md").write_text(page(), "utf-8")
    (ROOT / "README.md").write_text(readme(), "utf-8")
