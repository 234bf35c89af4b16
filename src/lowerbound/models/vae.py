"""The variational autoencoder: a prior p(z), an approximate posterior q(z|x) and a likelihood
p(x|z).

    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) >= ELBO = E_q[log p(x|z)] - KL(q(z|x) ‖ p(z))

(Kingma and Welling 2013, arXiv 1312.6114; Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082). The
model knows the three roles and how they are wired, not what they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.checks import check_samples
from lowerbound.compatibility import BITS, VECTORS, check_composed
from lowerbound.distributions import frozen, is_code, mean, nearest, stddev
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.draw import Draw, Latent
from lowerbound.model import Model, again, agree_on_y, check_role
from lowerbound.roles import Context, Likelihood, Posterior, Prior
from lowerbound.shapes import Shape
from lowerbound.utils.modes import evaluating
from lowerbound.utils.seeding import random_state


class VAE(Model):
    """Three roles composed; calling it gives a :class:`~lowerbound.draw.Draw`.

    Args:
        prior: p(z).
        posterior: q(z|x).
        likelihood: p(x|z).

    Raises:
        TypeError: a part does not fill the role it was given for.
        ValueError: the parts disagree on the shape of z or of x, or on what y is, or one needs what
            another does not offer.

    Example:
        >>> import lowerbound as lb
        >>> x_shape, z_shape = (1, 8, 8), (4,)
        >>> model = lb.VAE(
        ...     prior=lb.priors.StandardNormal(z_shape),
        ...     posterior=lb.posteriors.DiagonalNormal(x_shape, z_shape),
        ...     likelihood=lb.likelihoods.Normal(z_shape, x_shape),
        ... )
        >>> x = torch.rand(5, 1, 8, 8)
        >>> model.encode(x).shape, model.reconstruct(x).shape, model.sample(3, seed=0).shape
        (torch.Size([5, 4]), torch.Size([5, 1, 8, 8]), torch.Size([3, 1, 8, 8]))
        >>> model(x, samples=10).log_w.shape
        torch.Size([10, 5])
    """

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood) -> None:
        super().__init__()
        check_role(Prior, prior=prior)
        check_role(Posterior, posterior=posterior)
        check_role(Likelihood, likelihood=likelihood)
        if len({prior.z_shape, posterior.z_shape, likelihood.z_shape}) > 1:
            raise ValueError(
                f"the parts disagree on the shape of z: prior {prior.z_shape}, posterior "
                f"{posterior.z_shape}, likelihood {likelihood.z_shape}; give all three the same "
                "z_shape"
            )
        if posterior.x_shape != likelihood.x_shape:
            raise ValueError(
                f"the parts disagree on the shape of x: posterior {posterior.x_shape}, likelihood "
                f"{likelihood.x_shape}; give both the data's event shape"
            )
        agree_on_y(prior=prior, posterior=posterior, likelihood=likelihood)
        check_composed(prior, posterior, likelihood)
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    @property
    def z_shape(self) -> Shape:
        """Z, the event shape of the latent."""
        return self.prior.z_shape

    @property
    def z_shapes(self) -> tuple[Shape, ...]:
        return (self.z_shape,)

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        samples: int = 1,
        path_gradient: bool = False,
        reparameterised: bool = True,
    ) -> Draw:
        check_samples(samples)
        x, context = self._given(x, context)
        # the gradient alone is another: where none is kept, nothing has to be evaluated twice
        path_gradient = path_gradient and torch.is_grad_enabled()
        before = random_state() if path_gradient and not torch.compiler.is_compiling() else {}
        relaxed = self.posterior.relaxed if self.training and reparameterised else _as_it_is
        posterior = self.posterior(x, context)
        qz = relaxed(posterior)
        pz = relaxed(self.prior(context, self.posterior))
        drawn = self.posterior.draw_latent(qz, samples, reparameterised, self.training)
        scored = qz
        # no gradient comes by way of x, so constants are as good as a second evaluation
        if path_gradient:
            scored = relaxed(frozen(posterior) or again(self.posterior, x, context, before))
        at = drawn.z if drawn.at is None else drawn.at
        latent = Latent(qz, pz, at, closed_form_kl(qz, pz), scored=scored)
        px = self.likelihood(drawn.z, context)
        log_px = self.likelihood.log_prob(px, x, context.mask)
        equal = torch.full_like(log_px.detach(), -math.log(samples))
        return Draw(
            latents=(latent,),
            px=px,
            log_px=log_px,
            log_m=qz.log_prob(drawn.z) if drawn.is_enumerated else equal,
            penalties=self.posterior.penalties(qz),
            is_density=self.likelihood.is_density,
            is_enumerated=drawn.is_enumerated,
            is_relaxed=drawn.is_relaxed,
            usage={} if (usage := self.posterior.usage(qz)) is None else {"codes": usage},
        )

    def log_joint(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        x, context = self._given(x, context)
        (z,) = latents
        px = self.likelihood(z, context)
        return self.prior(context, self.posterior).log_prob(z) + self.likelihood.log_prob(
            px, x, context.mask
        )

    def log_posterior(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        (z,) = latents
        copies = {name: value.clone() for name, value in self.posterior.named_buffers()}
        arguments = self._given(x, context)
        log_q: Tensor = torch.func.functional_call(self.posterior, copies, arguments).log_prob(z)
        return log_q

    @torch.no_grad()
    def sample_joint(
        self, n: int, context: Context | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        context = self._beside(context, n).repeated(n)
        pz = self.prior(context, self.posterior)
        z = pz.sample(torch.Size((n,) if not pz.batch_shape else ()))
        return self.likelihood(z, context).sample(), (z,)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The mean of q(z|x): (B, *X) -> (B, *Z). Deterministic; a random z is
        ``model(x).latents[0].z``.

        The mean of discrete codes is none of them: there it is the most probable code.
        """
        with evaluating(self):
            qz = self.posterior(*self._given(x, context))
            return nearest(qz, qz.mean) if is_code(qz) else mean(qz)

    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z): (..., *Z) -> (..., *X). Deterministic."""
        with evaluating(self):
            return mean(self.likelihood(self._placed(z), self._beside(context)))

    @torch.no_grad()
    def prior_scale(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of p(z), each (*Z), from draws under a fixed seed where it
        has no formula.
        """
        with evaluating(self):
            pz = self.prior(self._beside(context), self.posterior)
            loc, scale = mean(pz), stddev(pz)
            return (loc[0], scale[0]) if pz.batch_shape else (loc, scale)

    @property
    def categories(self) -> int | None:
        if VECTORS in self.posterior.capabilities:
            return self.z_shape[-1]
        return 1 if BITS in self.posterior.capabilities else None

    @property
    def refinable(self) -> Posterior:
        return self.posterior


def _as_it_is(distribution: Distribution) -> Distribution:
    return distribution
