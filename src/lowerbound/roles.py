"""The three roles of a variational autoencoder, each a module whose forward returns a distribution.

    prior(context, posterior)   -> p(z)       batch () or (B,), event Z
    posterior(x, context)       -> q(z|x)     batch (B,),       event Z
    likelihood(z, context)      -> p(x|z)     batch (K, B),     event X

Each may be conditioned on y, by choice (``condition``): p(z|y), q(z|x, y), p(x|z, y).

A prior is handed the posterior at each call, for the kinds that are made of it (VampPrior); it
never stores it, since a module that is registered twice is saved twice.

A part is a final class that fills one role. Its constructor takes the shapes, a network factory
where it has a network, and its settings; every setting is kept as an attribute of the same name, so
that a part can say how it was made.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions.constraints import Constraint

from lowerbound.codebook import Codebook
from lowerbound.compatibility import (
    EVALUABLE,
    LOG_DENSITY,
    MOVABLE,
    OWN,
    PATHWISE,
    REALS,
    REPARAMETERISED,
    SAMPLED,
    UNCONDITIONED,
    WEIGHABLE,
    Capability,
    Requirement,
)
from lowerbound.conditions import Condition, ConditionedInput
from lowerbound.shapes import Shape, as_shape


@dataclass(frozen=True)
class Context:
    """What else is known about the examples; every field is optional and has the batch dimension
    (B, ...) first.

    It is broadcast against leading dimensions, never expanded to them.

    Args:
        y: labels, (B,) or (B, *Y).
        mask: 1 where an entry of x is observed, 0 where it is missing, broadcastable to (B, *X).
        index: position of each example in the training data, (B,).
        actions: controls of a sequence, (B, T, *A).
    """

    y: Tensor | None = None
    mask: Tensor | None = None
    index: Tensor | None = None
    actions: Tensor | None = None

    def to(self, device: torch.device) -> Context:
        """The same context on another device."""
        return self._each(lambda value: value.to(device))

    def __getitem__(self, rows: slice | Tensor) -> Context:
        """The same context for some of the examples; a field whose batch dimension is 1 holds for
        all of them.
        """
        return self._each(lambda value: value if len(value) == 1 else value[rows])

    def repeated(self, n: int) -> Context:
        """The same context for n examples: a field of one row is for all of them.

        Raises:
            ValueError: a field is of another number of examples.
        """
        if wrong := [name for name, value in self.given.items() if len(value) not in (1, n)]:
            raise ValueError(
                f"{wrong[0]} in the context is of {len(self.given[wrong[0]])} examples, and {n} "
                "are asked for; give a row for each, or one for all of them"
            )
        return self._each(lambda value: value.expand(n, *value.shape[1:]))

    def observed(self, x: Tensor) -> Tensor:
        """X (B, *X) with zero for every missing entry, so that nothing can depend on what stands
        there, nan included.

        Raises:
            ValueError: the mask is not of x's shape.

        Example:
            >>> Context(mask=torch.tensor([[1, 0]])).observed(torch.tensor([[2.0, torch.nan]]))
            tensor([[2., 0.]])
        """
        if self.mask is None:
            return x
        if self.mask.ndim != x.ndim or any(
            m not in (1, n) for m, n in zip(self.mask.shape, x.shape, strict=True)
        ):
            raise ValueError(
                f"a mask of shape {tuple(self.mask.shape)} does not fit examples of shape "
                f"{tuple(x.shape)}: it must hold a 1 for every entry that is observed and a 0 for "
                "every one that is missing, (B, *X)"
            )
        return torch.where(self.mask.to(torch.bool), x, torch.zeros_like(x))

    @property
    def given(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def _each(self, function: Callable[[Tensor], Tensor]) -> Context:
        fields = {name: function(value) for name, value in self.given.items()}
        return Context(**fields) if fields else self


class Part(nn.Module, ABC):
    """What every role has in common.

    A part that takes ``condition`` does not explain it again: the help has it from here.

    Args:
        condition: what the part is told of each example, y: None for nothing, C for one of C
            classes, or the shape of real values. On the command line, y stands for what the data
            have.

    Attributes:
        role: prior, posterior or likelihood.
        capabilities: what others may need of this part (:mod:`lowerbound.compatibility`); a part
            that lacks something usual says so.
        requirements: what it asks of the parts of other roles, with the reason; a model without it
            is refused.
        batch_statistics: whether, in training, it takes something from the batch as a whole, which
            then has to be there at once; where several processes share it, by the functions of
            :mod:`lowerbound.parallel.shards`.
    """

    role: ClassVar[str]
    batch_statistics: ClassVar[bool] = False
    condition: Condition = None
    capabilities: frozenset[Capability] = frozenset()
    requirements: Mapping[Capability, Requirement] = MappingProxyType({})

    def prepare(self, x: Tensor) -> None:
        """Take from the training examples (n, *X) what the part needs of them; called by fit before
        the first step.

        Missing entries hold observed values of the same entry (:func:`~lowerbound.units.refilled`).
        """


class Prior(Part):
    """p(z), or p(z|y) from the context.

    Attributes:
        z_shape: Z, the event shape of the latent.
    """

    role = "prior"
    capabilities = frozenset({MOVABLE, OWN})
    requirements = MappingProxyType(
        {REALS: Requirement("is a density of real z", "the prior that suits its z")}
    )
    __call__: Callable[..., Distribution]

    def __init__(self, z_shape: Shape) -> None:
        super().__init__()
        self.z_shape = as_shape(z_shape, "the latent shape")

    @abstractmethod
    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        """The distribution of z, with batch shape () or (B,) and event shape Z."""


@dataclass(frozen=True)
class LatentSample:
    """Values of z.

    Args:
        z: (K, B, *Z).
        is_enumerated: whether these are all that there are, so that K is their number.
        is_relaxed: whether they lie between the codes on which q(z|x) and p(z) are probabilities.
        at: where q(z|x) and p(z) are evaluated, (K, B, *Z), where that is not z but what z is a
            one-to-one function of.
    """

    z: Tensor
    is_enumerated: bool = False
    is_relaxed: bool = False
    at: Tensor | None = None


class Posterior(Part):
    """q(z|x), the approximate posterior.

    Attributes:
        x_shape: X, the event shape of the data.
        z_shape: Z, the event shape of the latent.
        conditioned_input: puts y beside x; a network is built for ``conditioned_input.in_shape``,
            which is X where there is no condition.
    """

    role = "posterior"
    capabilities = frozenset(
        {EVALUABLE, REPARAMETERISED, PATHWISE, WEIGHABLE, SAMPLED, REALS, UNCONDITIONED}
    )
    __call__: Callable[..., Distribution]

    def __init__(self, x_shape: Shape, z_shape: Shape, condition: Condition = None) -> None:
        super().__init__()
        self.x_shape = as_shape(x_shape, "the data shape")
        self.z_shape = as_shape(z_shape, "the latent shape")
        self.condition = condition
        self.conditioned_input = ConditionedInput(self.x_shape, condition, type(self).__name__)
        if condition is not None:
            self.capabilities = self.capabilities - {UNCONDITIONED}

    @abstractmethod
    def forward(self, x: Tensor, context: Context) -> Distribution:
        """The distribution of z given x (B, *X), with batch shape (B,) and event shape Z.

        Where the context has a mask, nothing may depend on the missing entries of x, which the
        model has set to zero and :meth:`~lowerbound.units.Standardizer.standardize` sets to the
        mean.
        """

    def codebook(self) -> Codebook | None:
        """The vectors out of which z is put together; None where it is not. A prior over codes asks
        for it.
        """
        return None

    def penalties(self, qz: Distribution) -> Mapping[str, Tensor]:
        """What is to be added to the loss beside the bound, by name, each (B,); ``qz`` is what
        forward returned.
        """
        return {}

    def usage(self, qz: Distribution) -> Tensor | None:
        """How often each code occurs in a batch, (codes,), where there are codes to be counted: for
        the log.
        """
        return None

    def relaxed(self, distribution: Distribution) -> Distribution:
        """What stands for q(z|x), and for p(z), in training, where gradients are to reach q through
        the draws.

        Usually that is the same distribution; those of codes may be relaxed
        (:mod:`lowerbound.codes`), on both sides alike.
        """
        return distribution

    def draw_latent(
        self, qz: Distribution, samples: int, reparameterised: bool, training: bool
    ) -> LatentSample:
        """Draws from q(z|x), or all values of z.

        Args:
            qz: what forward returned, relaxed in training where gradients are to reach q through
                the draws.
            samples: K.
            reparameterised: whether they are.
            training: whether the model is in training; codes are codes in evaluation, whatever
                training makes of them.
        """
        shape = torch.Size((samples,))
        return LatentSample(
            qz.rsample(shape) if reparameterised and qz.has_rsample else qz.sample(shape)
        )


class Likelihood(Part):
    """p(x|z).

    Attributes:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        support: the set on which this is a density or a probability; it must contain the data's.
        is_density: False for a score that is no log-density (cross-entropy): what it gives is never
            called a likelihood.
        conditioned_input: puts y beside z; a network is built for ``conditioned_input.in_shape``,
            which is Z where there is no condition.
    """

    role = "likelihood"
    support: Constraint
    is_density: ClassVar[bool] = True
    __call__: Callable[..., Distribution]

    def __init__(self, z_shape: Shape, x_shape: Shape, condition: Condition = None) -> None:
        super().__init__()
        self.z_shape = as_shape(z_shape, "the latent shape")
        self.x_shape = as_shape(x_shape, "the data shape")
        self.condition = condition
        self.conditioned_input = ConditionedInput(self.z_shape, condition, type(self).__name__)
        if self.is_density:
            self.capabilities = self.capabilities | {LOG_DENSITY}

    @property
    def scaled_entries(self) -> Sequence[int]:
        """Which entries of the flattened x have a learned scale of their own: of one that never
        varies the density then grows without end.
        """
        return ()

    @abstractmethod
    def forward(self, z: Tensor, context: Context) -> Distribution:
        """The distribution of x given z (..., *Z), with batch shape (...) and event shape X."""

    def log_prob(self, px: Distribution, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log p(x|z) in nats, summed over the event: x (B, *X) -> (K, B).

        Args:
            px: the distribution that forward returned, batch (K, B).
            x: the data, (B, *X).
            mask: 1 where observed, broadcastable to x. Missing entries are marginalised, which for
                entries that are independent given z means that their term is left out of the sum,
                whatever value stands there.
        """
        if mask is None:
            return px.log_prob(x)
        if not (isinstance(px, Independent) and px.reinterpreted_batch_ndims == len(self.x_shape)):
            raise ValueError(
                f"{type(self).__name__} does not treat the entries of x as independent given z, so "
                "a mask cannot marginalise them; fill in the missing values or use a likelihood "
                "with independent entries"
            )
        observed = mask.to(torch.bool)
        # a missing value may be nan, and nan * 0 is nan: put a harmless value in before the density
        # sees it
        filled = torch.where(observed, x, torch.zeros_like(x))
        entries = torch.where(observed, px.base_dist.log_prob(filled), 0.0)
        return entries.sum(tuple(range(-len(self.x_shape), 0))) if self.x_shape else entries


LikelihoodFactory: TypeAlias = Callable[[Shape, Shape], Likelihood]
"""(z_shape, x_shape) -> a likelihood: a class, or a partial of one that fixes its settings by
name.
"""


@dataclass(frozen=True)
class Group:
    """Some entries of x and what makes the likelihood of them.

    Args:
        columns: which, as positions in the flattened event: of a table, its columns, counted from
            0.
        likelihood: what makes their likelihood.
    """

    columns: Sequence[int]
    likelihood: LikelihoodFactory


Groups: TypeAlias = Mapping[str, Group]
"""Groups of entries by name: together all entries of x, each once."""
