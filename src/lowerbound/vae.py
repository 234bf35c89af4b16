"""The variational autoencoder: a prior p(z), an approximate posterior q(z|x) and a likelihood p(x|z).

    log p(x) = ELBO + KL(q(z|x) ‖ p(z|x)) >= ELBO = E_q[log p(x|z)] - KL(q(z|x) ‖ p(z))

(Kingma and Welling 2013, arXiv 1312.6114; Rezende, Mohamed and Wierstra 2014, arXiv 1401.4082). The model knows the three
roles and how they are wired, not what they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import is_code, mean, nearest
from lowerbound.draw import Draw, Latent
from lowerbound.kl import closed_form_kl
from lowerbound.modes import evaluating
from lowerbound.needs import check_composed
from lowerbound.roles import Context, Likelihood, Posterior, Prior
from lowerbound.seeding import random_state, replayed, seeded
from lowerbound.shapes import Shape


class VAE(nn.Module):
    """Three roles composed; calling it gives a :class:`~lowerbound.draw.Draw`.

    Args:
        prior: p(z).
        posterior: q(z|x).
        likelihood: p(x|z).

    Raises:
        TypeError: a part does not fill the role it was given for.
        ValueError: the parts disagree on the shape of z or of x, or one needs what another does not offer.

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

    __call__: Callable[..., Draw]

    def __init__(self, prior: Prior, posterior: Posterior, likelihood: Likelihood) -> None:
        super().__init__()
        for name, part, role in (
            ("prior", prior, Prior),
            ("posterior", posterior, Posterior),
            ("likelihood", likelihood, Likelihood),
        ):
            if not isinstance(part, role):
                given = part.__name__ + " (the class itself)" if isinstance(part, type) else type(part).__name__
                raise TypeError(f"{name}={given} is not a {role.__name__}: pass an object from lowerbound.{name}s")
        if len({prior.z_shape, posterior.z_shape, likelihood.z_shape}) > 1:
            raise ValueError(
                f"the parts disagree on the shape of z: prior {prior.z_shape}, posterior {posterior.z_shape}, "
                f"likelihood {likelihood.z_shape}; give all three the same z_shape"
            )
        if posterior.x_shape != likelihood.x_shape:
            raise ValueError(
                f"the parts disagree on the shape of x: posterior {posterior.x_shape}, likelihood "
                f"{likelihood.x_shape}; give both the data's event shape"
            )
        check_composed(prior, posterior, likelihood)
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood

    @property
    def x_shape(self) -> Shape:
        """X, the event shape of the data."""
        return self.likelihood.x_shape

    @property
    def z_shape(self) -> Shape:
        """Z, the event shape of the latent."""
        return self.prior.z_shape

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
            path_gradient: evaluate log q without the gradient through q's own parameters, so that they learn through z
                alone ("sticking the landing", Roeder, Wu and Duvenaud 2017, arXiv 1703.09194).
            reparameterised: let gradients reach the posterior through z. Where codes are discrete, they may be relaxed for
                that in training (:mod:`lowerbound.codes`); in evaluation there is only the discrete model.

        Raises:
            ValueError: fewer than one sample, or x of another shape.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}: at least 1 draw is needed")
        x, context = self._given(x, context)
        before = (random_state(), self._copied_buffers()) if path_gradient else None
        relaxed = self.posterior.relaxed if self.training and reparameterised else _as_it_is
        qz = relaxed(self.posterior(x, context))
        pz = relaxed(self.prior(context, self.posterior))
        z, is_enumerated = self.posterior.drawn(qz, samples, reparameterised)
        scored = qz if before is None else relaxed(self._frozen_posterior(x, context, *before))
        latent = Latent(qz, pz, z, scored.log_prob(z), pz.log_prob(z), closed_form_kl(qz, pz))
        px = self.likelihood(z, context)
        log_px = self.likelihood.log_prob(px, x, context.mask)
        log_m = qz.log_prob(z) if is_enumerated else torch.full_like(log_px.detach(), -math.log(samples))
        return Draw(
            (latent,),
            px,
            log_px,
            log_m,
            penalties=self.posterior.penalties(qz),
            is_density=self.likelihood.is_density,
            is_enumerated=is_enumerated,
            usage={} if (usage := self.posterior.usage(qz)) is None else {"codes": usage},
        )

    def _copied_buffers(self) -> dict[str, Tensor]:
        """Copies of the posterior's buffers."""
        return {name: value.clone() for name, value in self.posterior.named_buffers()}

    def _frozen_posterior(
        self, x: Tensor, context: Context, random: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
    ) -> Distribution:
        """The same q(z|x) with detached parameters.

        It is computed again, from where the first time began: on copies of the buffers, so that batch statistics and
        codebooks move once and are the same, and from the same random state, so that dropout leaves out the same units.
        """
        frozen = {name: value.detach() for name, value in self.posterior.named_parameters()}
        with replayed(random):
            qz: Distribution = torch.func.functional_call(self.posterior, {**frozen, **buffers}, (x, context))
        return qz

    def log_joint(self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None) -> Tensor:
        """Log p(x, z) in nats, (K, B), for given latents (K, B, *Z)."""
        x, context = self._given(x, context)
        (z,) = latents
        px = self.likelihood(z, context)
        return self.prior(context, self.posterior).log_prob(z) + self.likelihood.log_prob(px, x, context.mask)

    @torch.no_grad()
    def dream(self, n: int, context: Context | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """N pairs from p(x, z), ancestrally: x (n, *X) and the latents, each (n, *Z)."""
        context = self._beside(context)
        pz = self.prior(context, self.posterior)
        z = pz.sample(torch.Size((n,) if not pz.batch_shape else ()))
        return self.likelihood(z, context).sample(), (z,)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The mean of q(z|x): (B, *X) -> (B, *Z). Deterministic; a random z is ``model(x).latents[0].z``.

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

    def reconstruct(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z) at the code of x (:meth:`encode`): (B, *X) -> (B, *X). Deterministic."""
        return self.decode(self.encode(x, context), context)

    @torch.no_grad()
    def sample(
        self, n: int, seed: int | None = None, context: Context | None = None, mean_of_x: bool = False
    ) -> Tensor:
        """N draws from the model, (n, *X).

        Args:
            n: how many.
            seed: makes the draw repeatable and leaves torch's global state alone; None uses the global state.
            context: labels and the like.
            mean_of_x: False draws x ~ p(x|z), a sample of p(x); True gives the mean of p(x|z) at z ~ p(z), the smooth
                picture that most papers show.

        Raises:
            ValueError: n below 1.
        """
        if n < 1:
            raise ValueError(f"n is {n}: at least 1 sample must be asked for")
        with seeded(seed), evaluating(self):
            x, (z,) = self.dream(n, context)
        return self.decode(z, context) if mean_of_x else x

    def _given(self, x: Tensor, context: Context | None) -> tuple[Tensor, Context]:
        """X and what is known beside it, where the model is; missing entries are zero, whatever stood there."""
        context = self._beside(context)
        return context.observed(self._placed(x)), context

    def _placed(self, value: Tensor) -> Tensor:
        """A value on the device and in the precision of the model; what numpy holds is taken too."""
        own = next(self.parameters())
        return torch.as_tensor(value).to(device=own.device, dtype=own.dtype)

    def _beside(self, context: Context | None) -> Context:
        """The context on the device of the model, empty where there is none."""
        return Context() if context is None else context.to(next(self.parameters()).device)


def _as_it_is(distribution: Distribution) -> Distribution:
    return distribution
