"""Models: modules that wire parts and give a draw. What is random, and how it is scored, is the
same verbs for all of them.

    model(x)        z ~ q(z|x), and the three log-densities: a draw
    log_joint       log p(x, z) at given latents
    sample_joint    (x, z) ~ p(x, z)
    encode, decode  x -> code -> mean of p(x|z), deterministic
    sample          x ~ p(x)

A model has one latent or several, always in the same order; a *code* is all of them as one tensor,
what ``encode`` gives and ``decode`` takes. The constructor's annotations say which parts a model
has: an argument that is a :class:`~lowerbound.roles.Prior` is a slot for a prior, a sequence of
posteriors is a slot for several; everything else is a setting.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.checks import (
    check_classes,
    check_condition,
    check_data,
    check_examples,
    check_precision,
    real_values,
)
from lowerbound.conditions import as_condition
from lowerbound.data.axes import check_axes
from lowerbound.data.dataset import Dataset
from lowerbound.data.names import Names
from lowerbound.draw import Draw
from lowerbound.roles import Context, Likelihood, Part, Posterior
from lowerbound.shapes import Shape, as_shape, numel
from lowerbound.units import is_double, learn_units
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import replayed, seeded

LatentSize: TypeAlias = int | list[int | list[int]]
"""What a configuration says of the latents: a size or a shape, or, in a model of several, one for
each.
"""

Shapes: TypeAlias = Mapping[str, Shape]
"""Shapes by the names of constructors' arguments, x_shape and z_shape; a part is given those that
it names.
"""


class Model(nn.Module, ABC):
    """Parts wired; calling it gives a :class:`~lowerbound.draw.Draw`.

    Attributes:
        likelihood: of x, the data, given the latents.
        default_latent: the size of the latents where none is asked for: for one, more than the
            digits need and enough for MNIST by a small network; unused dimensions cost no rate.
        origin: of weights that have been trained: the run folder, or None, and the SHA-256 of its
            file of weights; None before any training.
        names: what the columns and classes of the data were called that it was trained on; None
            before any training.
    """

    likelihood: Likelihood
    origin: Mapping[str, Any] | None = None
    names: Names | None = None
    default_latent: ClassVar[LatentSize] = 16
    _is_trusting: bool = False
    __call__: Callable[..., Draw]

    @classmethod
    def shapes(
        cls, slot: str, x_shape: Shape, latent: LatentSize, settings: Mapping[str, Any]
    ) -> Shapes | Sequence[Shapes]:
        """The shapes of the part in a slot; of each, where the slot holds several, whose number is
        known from the latents.

        Args:
            slot: the name of the constructor's argument.
            x_shape: X, the event shape of the data.
            latent: size or shape of the latents, as configured.
            settings: the model's own settings, as far as they are known.

        Raises:
            ValueError: latents that this model cannot have.
        """
        # it checks the sizes
        return {"x_shape": x_shape, "z_shape": as_shape(latent, "latent")}  # type: ignore[arg-type]

    @property
    @abstractmethod
    def z_shapes(self) -> tuple[Shape, ...]:
        """The event shape of each latent, in the order of a draw."""

    @property
    def x_shape(self) -> Shape:
        """X, the event shape of the data."""
        return self.likelihood.x_shape

    @property
    def latent(self) -> LatentSize:
        """Shape of the latent, or of each where there are several, as a configuration says it."""
        shapes = [list(shape) for shape in self.z_shapes]
        # list is invariant
        return shapes[0] if len(shapes) == 1 else shapes  # type: ignore[return-value]

    @property
    def code_shape(self) -> Shape:
        """The shape of a code: that of the latent, or (D,) where several are laid side by side,
        flat.
        """
        return self.z_shapes[0] if len(self.z_shapes) == 1 else (sum(map(numel, self.z_shapes)),)

    @cached_property
    def condition(self) -> int | Shape | None:
        """What the parts that are told of y are told: a number of classes, the shape of real
        values, or None.
        """
        conditions = {as_condition(part.condition) for part in self.parts.values()} - {None}
        return conditions.pop() if conditions else None

    @property
    def is_conditional(self) -> bool:
        """Whether y must be given, so that what is modelled is p(x|y)."""
        return self.condition is not None

    @property
    def parts(self) -> dict[str, Part]:
        """Every part by its slot, as in "prior" or "posteriors.1"."""
        parts: dict[str, Part] = {}
        for name, module in self.named_modules():
            if isinstance(module, Part) and not any(
                name.startswith(f"{above}.") for above in parts
            ):
                parts[name] = module
        return parts

    @abstractmethod
    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        samples: int = 1,
        path_gradient: bool = False,
        reparameterised: bool = True,
    ) -> Draw:
        """Draw z_k ~ q(z|x) and evaluate the three log-densities.

        Args:
            x: the data, (B, *X).
            context: labels, mask and the like.
            samples: K, how many draws for each example.
            path_gradient: evaluate log q without the gradient through q's own parameters, so that
                they learn through z alone ("sticking the landing", Roeder, Wu and Duvenaud 2017,
                arXiv 1703.09194).
            reparameterised: let gradients reach the posterior through z. Where codes are discrete,
                they may be relaxed for that in training (:mod:`lowerbound.codes`); in evaluation
                there is only the discrete model.

        Raises:
            ValueError: fewer than one sample, or x of another shape.
        """

    @abstractmethod
    def log_joint(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        """Log p(x, z) in nats, (K, B), for given latents, each (K, B, *Z)."""

    def log_posterior(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        """Log q(z|x) in nats, (..., B), for given latents, each (..., B, *Z): of joint samples, or
        of the states of a chain.

        x need not be data: what runs along with those, as the statistics of a batch normalisation,
        is left as it is.

        Raises:
            ValueError: the model does not say.
        """
        raise ValueError(
            f"{type(self).__name__} does not say log q of given latents; use a VAE, or another "
            "objective or estimator"
        )

    @abstractmethod
    def sample_joint(
        self, n: int, context: Context | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """N pairs from p(x, z), ancestrally: x (n, *X) and the latents, each (n, *Z); a context of
        one row is for all.
        """

    @abstractmethod
    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The code of x, means of q: (B, *X) -> (B, *code). Deterministic."""

    @abstractmethod
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z) at a code: (..., *code) -> (..., *X). Deterministic.

        The leading dimensions of what the context holds are broadcast against those of the code.
        """

    @property
    def categories(self) -> int | None:
        """How many entries of a code are one discrete variable: C of categorical codes, 1 of bits;
        None of real codes.
        """
        return None

    @abstractmethod
    def prior_scale(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of every entry of a code (*code) under the prior, given what
        lies above it there.

        The context is that of the one code.
        """

    def classify(self, x: Tensor, context: Context | None = None) -> Tensor | None:
        """The most probable label of each example, (B,), without those that are given; None where
        the model has none.
        """
        return None

    def reconstruct(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z) at the code of x: (B, *X) -> (B, *X). Deterministic."""
        return self.decode(self.encode(x, context), context)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        seed: int | None = None,
        context: Context | None = None,
        mean_of_x: bool = False,
    ) -> Tensor:
        """N draws from the model, (n, *X).

        Args:
            n: how many.
            seed: makes the draw repeatable, whatever other threads draw, and leaves torch's global
                generators alone; None draws from them, as any module does.
            context: labels and the like, of n examples or of one for all: p(x|y) is sampled where
                the model is conditioned.
            mean_of_x: False draws x ~ p(x|z), a sample of p(x); True gives the mean of p(x|z) at z
                ~ p(z), the smooth picture that most papers show.

        Raises:
            ValueError: n below 1, or a context that is not what the model is conditioned on.
        """
        if n < 1:
            raise ValueError(f"n is {n}: at least 1 sample must be asked for")
        with seeded(seed), evaluating(self):
            x, latents = self.sample_joint(n, context)
        return self.decode(self.code(latents), context) if mean_of_x else x

    def code(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents, each (..., *Z), as one code (..., *code)."""
        if len(latents) == 1:
            return latents[0]
        pairs = zip(latents, self.z_shapes, strict=True)
        return torch.cat([z.reshape(*z.shape[: z.ndim - len(shape)], -1) for z, shape in pairs], -1)

    def down_to(self, z: Tensor, dimension: int) -> Tensor:
        """As much of codes (..., *code) as stays when one dimension moves: what depends on it is
        left to ``decode``.
        """
        return z

    @property
    def refinable(self) -> Posterior:
        """The one part that is q(z|x), whose answer can be refined for single examples.

        Raises:
            ValueError: there is no such part.
        """
        raise ValueError(
            f"refining q needs one q(z|x) for all latents, and that of {type(self).__name__} is "
            "made of several parts; use a VAE, or look at nll against elbo (evaluate)"
        )

    def log_prior(self, latents: tuple[Tensor, ...], context: Context | None = None) -> Tensor:
        """Log p(z) in nats, (K, B), for given latents, each (K, B, *Z): where they depend on each
        other, annealing asks.

        Raises:
            ValueError: the model does not give it.
        """
        raise ValueError(
            f"{type(self).__name__} does not say log p of given latents, from which annealing "
            "could start; use the importance-weighted estimator"
        )

    @property
    def shown_x(self) -> Sequence[Part]:
        """The parts that are given x itself, as condition or as what they are a distribution of: by
        default all.
        """
        return tuple(self.parts.values())

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Take from the training examples (n, *X) what the parts need of them; called by fit before
        the first step.
        """
        for part in self.shown_x:
            part.prepare(x)

    def learn_units(
        self, x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Set the units of the data, where not set before, from the observed entries of training
        examples (n, *X).

        Args:
            x: examples, (n, *X), or a :func:`~lowerbound.units.summary` of them.
            mask: 1 where observed, (n, *X).
            dtype: of the data, by default that of x.
        """
        for part in self.shown_x:
            learn_units(part, x, mask, dtype)

    def matched(self, data: Dataset) -> Dataset:
        """New data as the model takes them: columns and classes that have names, in its own order.

        Columns that it does not know are left out, and that is said; where one side has no names
        they are taken by position, and that is said too.

        Raises:
            ValueError: a column or a class that is not there, by name, with the nearest that is; or
                what else does not fit.
        """
        if self.names is not None:
            data = self.names.matched(data, isinstance(self.condition, int))
        self.check_data(data)
        return data

    def check_data(self, data: Dataset) -> None:
        """Refuse data that the model cannot be trained on or measured with.

        Raises:
            ValueError: what does not fit, and what would.
        """
        name = data.name or "the data"
        if self.names is not None:
            self.names.check(data, isinstance(self.condition, int))
        check_data(self.likelihood, data.event_shape, data.lies_on, name)
        check_classes(self.likelihood, data)
        check_precision(self, data.dtype, name, "read it with dtype='float64'")
        check_condition(self.condition, data.condition, name)
        if any(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in self.modules()):
            check_axes(data.event_shape, data.options.get("channels"), "a convolution", name)

    @contextmanager
    def trusting(self) -> Iterator[None]:
        """A block in which x is not looked at: training's data were, when they were read."""
        self._is_trusting = True
        try:
            yield
        finally:
            self._is_trusting = False

    def _given(self, x: Tensor, context: Context | None) -> tuple[Tensor, Context]:
        """X and what is known beside it, where the model is; missing entries are zero, whatever
        stood there.

        Raises:
            ValueError: x holds values that are not finite, or in a precision that changes them.
            TypeError: x is no tensor or array of real numbers.
        """
        looks = not (self._is_trusting or torch.compiler.is_compiling())
        x = torch.as_tensor(real_values(x) if looks else x)
        placed = self._placed_x(x)
        context = self._beside(context, len(x))
        value = context.observed(placed)
        if looks:
            check_examples(value)
            check_precision(self, x.dtype, "x", "give it in float64 (Dataset.examples does)")
        return value, context

    def _placed(self, value: Tensor) -> Tensor:
        """A value on the device and in the precision of the model; what numpy holds is taken
        too.
        """
        like = _first_parameter(self)
        assert like is not None  # a model that has none cannot be trained
        return torch.as_tensor(value).to(device=like.device, dtype=like.dtype)

    def _placed_x(self, x: Tensor) -> Tensor:
        """X on the device of the model: in float64 where the model's data are, and it holds what
        float32 may not; else in the precision of the model.
        """
        like = _first_parameter(self)
        assert like is not None  # as above
        is_wide = x.dtype == torch.float64 or not x.is_floating_point()
        keeps = is_wide and like.dtype != torch.float64 and is_double(self)
        return x.to(device=like.device, dtype=torch.float64 if keeps else like.dtype)

    def _beside(self, context: Context | None, n: int | None = None) -> Context:
        """The context on the device of the model, empty where there is none.

        Raises:
            ValueError: where the model is conditioned on y, that of another number of examples than
                n.
        """
        context = context or Context()
        y = context.y
        if self.condition is not None and y is not None and n is not None:
            event = () if isinstance(self.condition, int) else self.condition
            if y.ndim != 1 + len(event) or len(y) not in (1, n):
                raise ValueError(
                    f"y has the shape {tuple(y.shape)}, and {(n, *event)} is needed, one for each "
                    "example, or 1 for all of them"
                )
        return context.to(next(self.parameters()).device) if context.given else context


def _first_parameter(module: nn.Module) -> Tensor | None:
    """``next(module.parameters())``, which makes a name for every module on its way: beside a small
    network that shows.
    """
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        if child is not None and (first := _first_parameter(child)) is not None:
            return first
    return None


def check_role(role: type[Part], **parts: Part) -> None:
    """Refuse parts that do not fill a role, by the name of the argument that they were given for.

    Raises:
        TypeError: which part does not, and what would.
    """
    for name, part in parts.items():
        if not isinstance(part, role):
            kind = (
                part.__name__ + " (the class itself)"
                if isinstance(part, type)
                else type(part).__name__
            )
            raise TypeError(
                f"{name}={kind} is not a {role.__name__}: pass an object from "
                f"lowerbound.{role.__name__.lower()}s"
            )


def agree_on_y(**parts: Part) -> None:
    """Refuse parts that are told different things of y, by the names of the arguments that they
    were given for.

    Raises:
        ValueError: what each is told.
    """
    if len({as_condition(part.condition) for part in parts.values()} - {None}) > 1:
        conditions = ", ".join(f"{name} {part.condition}" for name, part in parts.items())
        raise ValueError(
            f"the parts disagree on what y is: {conditions}; give each the same condition, or None"
        )


def again(
    part: Part, x: Tensor, context: Context, before: Mapping[str, Tensor], frozen: bool = True
) -> Distribution:
    """The same distribution as a part has just given, with detached parameters.

    It is computed again: on copies of the buffers, so that batch statistics move once, and from the
    random state of the first time, so that dropout leaves out the same units.

    Args:
        part: the part, called with (x, context).
        x: its argument: the same values, which may be reached by another path of gradients.
        context: labels, mask and the like.
        before: the random state from which it was computed
            (:func:`~lowerbound.utils.seeding.random_state`).
        frozen: False leaves the parameters their gradient.
    """
    parameters = {
        name: value.detach() if frozen else value for name, value in part.named_parameters()
    }
    copies = {name: value.clone() for name, value in part.named_buffers()}
    with replayed(before):
        distribution: Distribution = torch.func.functional_call(
            part, {**parameters, **copies}, (x, context)
        )
    return distribution
