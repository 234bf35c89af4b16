"""p(z) = (1/C) sum_c q(z|u_c): the posterior averaged over learned pseudo-inputs u_1 .. u_C, points
of the data's space.

The prior at which the ELBO is largest, for a given posterior, is the aggregate posterior, the
average of q(z|x) over all training data; a few hundred learned points stand in for those. Gradients
reach the pseudo-inputs through the posterior, and the posterior by both ways, as q(z|x) and as a
component of p(z). There is no closed-form KL from a normal to a mixture, so the rate is estimated
from the draws, log q(z|x) - log p(z).
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.compatibility import EVALUABLE, MOVABLE, OWN, UNCONDITIONED, Requirement
from lowerbound.distributions import Mixture
from lowerbound.roles import Context, Posterior, Prior
from lowerbound.shapes import Shape, as_shape
from lowerbound.supports import UNIT, contains, smallest
from lowerbound.units import Standardizer
from lowerbound.utils.messages import first_line
from lowerbound.utils.modes import evaluating

EDGE = 0.01  # how far inside of [0, 1] a pseudo-input starts, where the sigmoid still has a slope


class VampPrior(Prior):
    """A variational mixture of posteriors (Tomczak and Welling 2018, arXiv 1705.07120).

    ``fit`` starts the pseudo-inputs at different training examples, drawn at random, before the
    first step of a model that has never been trained: points at which the posterior is at home, and
    no two alike. (The paper has that as an option, and otherwise starts around a constant.) Where
    the training data lie in [0, 1], u is a sigmoid of what is learned, and so stays there;
    elsewhere it is unbounded, and learned in units of the data's spread. Before ``fit`` it is
    noise.

    The posterior sees pseudo-inputs in evaluation mode, in training too: without dropout, and with
    the running statistics of a batch normalisation, which they do not move. So p(z) is one density,
    the same in both modes, and does not depend on the batch. It sees them without labels and mask.

    Args:
        z_shape: Z, the event shape of the latent.
        x_shape: X, the event shape of the data.
        components: C, the number of pseudo-inputs.

    Raises:
        ValueError: no component, a size below 1, fewer training examples than components; when
            composed, a posterior that knows its density at its own draws alone; when called, no
            posterior, one of another data shape, or one that cannot do without labels.

    Example:
        >>> from lowerbound.posteriors import DiagonalNormal
        >>> prior, posterior = (
        ...     VampPrior((2,), (1, 8, 8), components=5),
        ...     DiagonalNormal((1, 8, 8), (2,)),
        ... )
        >>> pz = prior(Context(), posterior)
        >>> pz.log_prob(torch.zeros(7, 3, 2)).shape, pz.sample((4,)).shape
        (torch.Size([7, 3]), torch.Size([4, 2]))
    """

    capabilities = Prior.capabilities - {MOVABLE, OWN}
    requirements = MappingProxyType(
        {
            EVALUABLE: Requirement(
                "evaluates q(z|u) of its pseudo-inputs at draws for the data",
                "Mixture or StandardNormal",
            ),
            **Prior.requirements,
            UNCONDITIONED: Requirement(
                "asks for q(z|u) at pseudo-inputs, which have no y",
                "another prior (ConditionalNormal, Mixture)",
            ),
        }
    )
    is_unit: Tensor
    is_prepared: Tensor

    def __init__(self, z_shape: Shape, x_shape: Shape, components: int = 500) -> None:
        super().__init__(z_shape)
        if components < 1:
            raise ValueError(f"components is {components}: at least 1 is needed")
        self.x_shape = as_shape(x_shape, "the data shape")
        self.components = components
        self.standardizer = Standardizer(self.x_shape)
        self.free = nn.Parameter(torch.randn(components, *self.x_shape))
        # saved with the weights: what the free values mean, and that they are not to be started
        # again
        self.register_buffer("is_unit", torch.tensor(False))
        self.register_buffer("is_prepared", torch.tensor(False))

    @property
    def pseudo_inputs(self) -> Tensor:
        """u_1 .. u_C, (C, *X), on the scale of the data."""
        return torch.where(
            self.is_unit, self.free.sigmoid(), self.standardizer.unstandardize(self.free)
        )

    @torch.no_grad()
    def prepare(self, x: Tensor) -> None:
        """Start at C of the training examples (n, *X), unless that has been done before."""
        if self.is_prepared:
            return
        if len(x) < self.components:
            raise ValueError(
                f"components is {self.components}, and each pseudo-input starts at another "
                f"training example, of which there are {len(x)}; use as many components or fewer"
            )
        # what float32 cannot hold has units, and no sigmoid reaches it
        self.is_unit.fill_(x.dtype != torch.float64 and contains(UNIT, smallest(x)))
        if not (self.is_unit or self.standardizer.is_fitted):
            self.standardizer.learn(x)
        rows = x[torch.randperm(len(x))[: self.components]].to(self.free.device)
        self.free.copy_(
            rows.clamp(EDGE, 1 - EDGE).logit()
            if self.is_unit
            else self.standardizer.standardize(rows)
        )
        self.is_prepared.fill_(True)

    def forward(self, context: Context, posterior: Posterior | None = None) -> Distribution:
        if posterior is None:
            raise ValueError(
                "a VampPrior is made of the posterior; call it with one, as in prior(context, "
                "posterior)"
            )
        if posterior.x_shape != self.x_shape:
            raise ValueError(
                f"the pseudo-inputs of the VampPrior have the shape {self.x_shape}, and the "
                f"posterior takes x of shape {posterior.x_shape}; give both the same x_shape"
            )
        try:
            with evaluating(posterior):
                components = posterior(self.pseudo_inputs, Context())
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(
                f"{type(posterior).__name__} fails on pseudo-inputs, which have no labels and no "
                f"mask ({first_line(error)}); use a posterior that can do without, or another "
                "prior than VampPrior"
            ) from error
        return Mixture(self.free.new_zeros(self.components), components)
