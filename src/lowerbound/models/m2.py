"""M2: x is made from a label y and a style z, and y may be unknown: p(y) p(z) p(x|z, y), and q(y|x)
q(z|x, y).

    y known      log p(x, y) >= -L(x, y) = E_q(z|x, y)[log p(x|z, y) + log p(y) + log p(z) - log
                 q(z|x, y)]
    y unknown    log p(x)    >= sum_y q(y|x) (-L(x, y)) - sum_y q(y|x) log q(y|x)

(Kingma, Rezende, Mohamed and Welling 2014, arXiv 1406.5298). The sum over y is carried out: a draw
holds z for each of the C labels, of weight log m = log q(y|x), and where y is known, all weight on
that one. q(y|x) classifies; where y is known it is trained by alpha (-log q(y|x)), since the first
bound does not hold it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from lowerbound.checks import check_samples
from lowerbound.compatibility import REALS, REPARAMETERISED, check_composed
from lowerbound.conditions import can_look
from lowerbound.distributions import OneHot, mean, stddev
from lowerbound.distributions.kl import closed_form_kl
from lowerbound.draw import Draw, Latent
from lowerbound.model import Model, agree_on_y, check_role
from lowerbound.networks import MLP
from lowerbound.roles import Context, Likelihood, Posterior, Prior
from lowerbound.shapes import NetworkFactory, Shape, over_leading
from lowerbound.units import Standardizer, learn_units
from lowerbound.utils.modes import evaluating

UNLABELLED = -1


class M2(Model):
    """A semi-supervised model: the label is a latent that is given for some of the training
    examples; elsewhere y is -1.

    p(y) is uniform. In evaluation labels are not used, so that the bounds are those of log p(x),
    and accuracy is that of q(y|x). A code is the most probable label, as one-hot, and the mean of
    q(z|x, y) at that label.

    Args:
        prior: p(z), or p(z|y).
        posterior: q(z|x, y), conditioned on C classes.
        likelihood: p(x|z, y), conditioned on C classes.
        classifier: makes the module X -> (C,), the logits of q(y|x).
        alpha: weight of -log q(y|x) where y is known. The paper's is 0.1 N / n for n labels among N
            examples: 50 for 100 labels of 50,000. Where the data's ``labelled_share`` makes
            labelled examples s of each batch, that is 0.1 / s.

    Under ``ELBO`` examples without a label teach q(y|x) too. Under ``IWAE`` the sum over the label
    cancels q(y|x) in every weight, as in log p(x) itself, so that there it learns from the labels
    that are known alone.

    Raises:
        TypeError: a part does not fill the role it was given for.
        ValueError: a negative alpha, parts of different shapes, or that are not given the label, or
            a posterior whose draws have no gradient.

    Example:
        >>> import lowerbound as lb
        >>> model = M2(
        ...     prior=lb.priors.StandardNormal((2,)),
        ...     posterior=lb.posteriors.DiagonalNormal((4,), (2,), condition=3),
        ...     likelihood=lb.likelihoods.Bernoulli((2,), (4,), condition=3),
        ... )
        >>> draw = model(torch.ones(5, 4), Context(y=torch.tensor([0, 2, -1, -1, -1])))
        >>> draw.log_w.shape, [round(m, 3) for m in draw.log_m[:, 1].exp().tolist()]
        (torch.Size([3, 5]), [0.0, 0.0, 1.0])
    """

    def __init__(
        self,
        prior: Prior,
        posterior: Posterior,
        likelihood: Likelihood,
        classifier: NetworkFactory = MLP,
        alpha: float = 50.0,
    ) -> None:
        super().__init__()
        check_role(Prior, prior=prior)
        check_role(Posterior, posterior=posterior)
        check_role(Likelihood, likelihood=likelihood)
        if (
            len({prior.z_shape, posterior.z_shape, likelihood.z_shape}) > 1
            or posterior.x_shape != likelihood.x_shape
        ):
            raise ValueError(
                f"the parts disagree on shapes: z is {prior.z_shape} in the prior, "
                f"{posterior.z_shape} in the posterior and {likelihood.z_shape} in the likelihood, "
                f"x {posterior.x_shape} and {likelihood.x_shape}"
            )
        agree_on_y(prior=prior, posterior=posterior, likelihood=likelihood)
        check_composed(prior, posterior, likelihood)
        if not (isinstance(posterior.condition, int) and isinstance(likelihood.condition, int)):
            raise ValueError(
                "M2 gives the label to posterior and likelihood: build both with condition=C, the "
                "number of classes (on the command line --posterior.condition y "
                "--likelihood.condition y)"
            )
        if not posterior.capabilities >= {REALS, REPARAMETERISED}:
            raise ValueError(
                f"M2 draws z with a gradient, and {type(posterior).__name__} gives codes or none; "
                "use a posterior on the real line (DiagonalNormal, FullNormal)"
            )
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is {alpha}: it must be a number that is not negative")
        self.prior = prior
        self.posterior = posterior
        self.likelihood = likelihood
        self.classifier = classifier
        self.alpha = alpha
        self.classes = posterior.condition
        self.standardizer = Standardizer(self.x_shape)
        self.net = classifier(self.x_shape, (self.classes,))

    @property
    def is_conditional(self) -> bool:
        return False

    @property
    def z_shapes(self) -> tuple[Shape, ...]:
        return (self.classes,), self.prior.z_shape

    @property
    # what is configured is z; the label follows from the data
    def latent(self) -> list[int]:  # type: ignore[override]
        return list(self.prior.z_shape)

    def label(self, x: Tensor, context: Context | None = None) -> OneHot:
        """q(y|x), as unit vectors: batch (B,)."""
        x, context = self._given(x, context)
        standard = self.standardizer.standardize(x, context.mask)
        return OneHot(
            logits=over_leading(self.net, standard, self.x_shape, (self.classes,)),
            validate_args=False,
        )

    def classify(self, x: Tensor, context: Context | None = None) -> Tensor:
        with torch.no_grad(), evaluating(self):
            return self.label(x, context).logits.argmax(-1)

    def forward(
        self,
        x: Tensor,
        context: Context | None = None,
        samples: int = 1,
        path_gradient: bool = False,
        reparameterised: bool = True,
    ) -> Draw:
        check_samples(samples)
        if path_gradient or not reparameterised:
            raise ValueError(
                "M2 sums over the label and draws z with its gradient, once; use ELBO or IWAE, or "
                "a VAE"
            )
        qy = self.label(x, context)
        x, context = self._given(x, context)
        every = torch.arange(self.classes, device=x.device).repeat(
            samples
        )  # all labels of the first draw, of the second, ...
        like = qy.logits
        vectors = one_hot(every, self.classes).to(like.dtype)[:, None].expand(-1, len(x), -1)
        beside = Context(
            y=every[:, None], mask=context.mask
        )  # broadcast against the examples: (K, B)
        qz, pz = self.posterior(x, beside), self.prior(beside, self.posterior)
        z = qz.rsample()
        px = self.likelihood(z, beside)
        log_px = self.likelihood.log_prob(px, x, context.mask)

        log_qy, log_py = qy.log_prob(vectors), -math.log(self.classes)
        known = self._labels(context, x)
        is_known, is_own = known != UNLABELLED, every[:, None] == known
        log_m = torch.where(
            is_known, torch.where(is_own, 0.0, -math.inf).to(log_qy), log_qy
        ) - math.log(samples)
        paid = torch.where(
            is_known, torch.zeros_like(log_qy), log_qy
        )  # a label that is given costs log p(y) alone
        rate_of_y = (torch.where(is_known, is_own.to(log_qy), log_qy.exp()) * (paid - log_py)).sum(
            0
        ) / samples
        each = closed_form_kl(qz, pz)
        missed = -qy.log_prob(one_hot(known.clamp_min(0), self.classes).to(like.dtype))
        return Draw(
            latents=(
                Latent(qy, self._uniform(like), vectors, rate_of_y, "y", scored=paid),
                Latent(qz, pz, z, None if each is None else (log_m.exp() * each).sum(0), "z"),
            ),
            px=px,
            log_px=log_px,
            log_m=log_m,
            penalties={"classification": self.alpha * is_known * missed},
            is_density=self.likelihood.is_density,
        )

    def _labels(self, context: Context, x: Tensor) -> Tensor:
        """The labels that are known, (B,), and -1; in evaluation none is used."""
        if context.y is None or not self.training:
            return torch.full((len(x),), UNLABELLED, device=x.device)
        if context.y.is_floating_point():
            raise ValueError(
                f"M2 takes labels 0 to {self.classes - 1}, and -1 for unknown; y holds "
                f"{context.y.dtype}"
            )
        y = context.y
        if can_look(y):
            low, high = int(y.min()), int(y.max())
            if low < UNLABELLED or high >= self.classes:
                raise ValueError(
                    f"M2 takes labels 0 to {self.classes - 1}, and -1 for unknown; y holds "
                    f"{low if low < UNLABELLED else high}"
                )
        return y.expand(len(x))

    def _uniform(self, like: Tensor) -> OneHot:
        return OneHot(logits=like.new_zeros(self.classes), validate_args=False)

    def log_joint(
        self, x: Tensor, latents: tuple[Tensor, ...], context: Context | None = None
    ) -> Tensor:
        x, context = self._given(x, context)
        vectors, z = latents
        beside = Context(y=vectors.argmax(-1), mask=context.mask)
        log_px = self.likelihood.log_prob(self.likelihood(z, beside), x, context.mask)
        log_pz: Tensor = self.prior(beside, self.posterior).log_prob(z)
        return log_px + log_pz - math.log(self.classes)

    @torch.no_grad()
    def sample_joint(
        self, n: int, context: Context | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Of the labels in the context, where it has them, and of all alike elsewhere."""
        context = self._beside(context, n)
        y = context.y
        if y is None:
            y = torch.randint(self.classes, (n,), device=next(self.parameters()).device)
        beside = Context(y=y.expand(n))
        pz = self.prior(beside, self.posterior)
        z = pz.sample(torch.Size(() if pz.batch_shape else (n,)))
        return self.likelihood(z, beside).sample(), (one_hot(y.expand(n), self.classes).to(z), z)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Context | None = None) -> Tensor:
        y = self.classify(x, context)
        x, context = self._given(x, context)
        with evaluating(self):
            z = mean(self.posterior(x, Context(y=y, mask=context.mask)))
        return self.code((one_hot(y, self.classes).to(z), z))

    @torch.no_grad()
    def decode(self, z: Tensor, context: Context | None = None) -> Tensor:
        """The mean of p(x|z, y) at a code, whose label is the largest of its first C entries: (...,
        *code) -> (..., *X).
        """
        vectors, style = self._placed(z).split(
            [self.classes, self.code_shape[0] - self.classes], -1
        )
        style = style.reshape(*style.shape[:-1], *self.prior.z_shape)
        with evaluating(self):
            return mean(self.likelihood(style, Context(y=vectors.argmax(-1))))

    @torch.no_grad()
    def prior_scale(self, z: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor]:
        y = self._placed(z)[: self.classes].argmax(-1, keepdim=True)
        with evaluating(self):
            pz = self.prior(Context(y=y), self.posterior)
            style = [
                (value[0] if pz.batch_shape else value).flatten()
                for value in (mean(pz), stddev(pz))
            ]
        share = 1 / self.classes
        of_label = [
            style[0].new_full((self.classes,), value)
            for value in (share, math.sqrt(share * (1 - share)))
        ]
        return torch.cat([of_label[0], style[0]]), torch.cat([of_label[1], style[1]])

    def learn_units(
        self, x: Tensor, mask: Tensor | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().learn_units(x, mask, dtype)
        learn_units(self.standardizer, x, mask, dtype)
