import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution

import lowerbound as lb
from lowerbound.data.dataset import Dataset
from lowerbound.roles import Context, Likelihood
from lowerbound.shapes import Shape
from tests.conftest import make_model
from tests.contracts import LikelihoodContract
from tests.quadrature import everywhere


class TestDiscretizedLogisticMixture(LikelihoodContract):
    def make(self, z_shape: Shape, x_shape: Shape) -> Likelihood:
        return lb.likelihoods.DiscretizedLogisticMixture(z_shape, x_shape, levels=17, components=3)

    def quadrature(self, px: Distribution) -> tuple[Tensor, Tensor]:
        return everywhere(px, torch.arange(17) / 16, torch.ones(17))


def picture() -> tuple[Likelihood, Distribution, Tensor]:
    part = lb.likelihoods.DiscretizedLogisticMixture((2,), (3, 2, 2), levels=4)
    px = part(torch.randn(7, 5, 2), Context())
    return part, px, px.sample()[0]


def test_pixels_are_independent_and_their_channels_are_not() -> None:
    """A pixel changes the density by its own term; the channels of one do not add up."""
    part, px, x = picture()
    with torch.no_grad():
        part.net.layers[-1].bias[-15:] = 2.0  # the coupling
    px = part(torch.randn(7, 5, 2), Context())

    def change(*at: tuple[int, int, int]) -> Tensor:
        other = x.clone()
        for channel, row, column in at:
            other[:, channel, row, column] = 1 - other[:, channel, row, column]
        return part.log_prob(px, other, None) - part.log_prob(px, x, None)

    assert torch.allclose(
        change((0, 0, 0), (1, 1, 1)), change((0, 0, 0)) + change((1, 1, 1)), atol=1e-4
    )
    assert not torch.allclose(
        change((0, 0, 0), (1, 0, 0)), change((0, 0, 0)) + change((1, 0, 0)), atol=1e-2
    )


def test_a_mask_marginalises_whole_pixels_and_no_parts_of_them() -> None:
    part, px, x = picture()
    mask = torch.tensor([[1, 0], [1, 1]])
    apart = part.log_prob(px, x, mask) + part.log_prob(px, x, 1 - mask)
    assert torch.allclose(apart, part.log_prob(px, x, None), atol=1e-4)
    other = x.clone()
    other[:, :, 0, 1] = torch.nan
    assert torch.equal(part.log_prob(px, other, mask), part.log_prob(px, x, mask))
    part.log_prob(px, other, mask).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in part.parameters())
    mask = torch.ones(3, 2, 2)
    mask[1, 0, 0] = 0
    with pytest.raises(
        ValueError, match=r"hides some channels.*hide whole pixels, or use .*Categorical"
    ):
        part.log_prob(px, x, mask)


def test_the_components_start_apart() -> None:
    part = lb.likelihoods.DiscretizedLogisticMixture((2,), (4,), levels=256)
    for p in part.net.parameters():
        p.data.zero_()
    base = part(torch.zeros(1, 2), Context()).base_dist
    assert torch.allclose(base.loc[0, 0], torch.tensor([-0.8, -0.4, 0.0, 0.4, 0.8]), atol=1e-6)
    assert torch.allclose(base.mean, torch.tensor(0.5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 1}, "at least 2"),
        ({"levels": None}, "how many"),
        ({"components": 0}, "at least 1"),
    ],
)
def test_refuses_too_few(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lb.likelihoods.DiscretizedLogisticMixture((2,), (4,), **{"levels": 17, **settings})


def test_learns_the_digits(digits: Dataset) -> None:
    """Better than 17 equally likely levels by far, 64 log 17 = 181 nats."""
    torch.manual_seed(0)
    model = make_model(digits, likelihood="DiscretizedLogisticMixture", levels=17)
    history = lb.fit(model, lb.objectives.ELBO(), digits, epochs=5, progress=False)
    assert history.series("distortion")[-1] < 150


def test_trains_on_coloured_pictures() -> None:
    """Grey pictures in colour: green and blue are known from red, and noise in red is nothing that
    three latents tell.
    """
    torch.manual_seed(0)
    x = torch.randint(0, 256, (200, 1, 4, 4), dtype=torch.uint8).expand(200, 3, 4, 4).contiguous()
    data = lb.data.from_arrays(x.numpy())
    model = make_model(data, likelihood="DiscretizedLogisticMixture", levels=256)
    history = lb.fit(
        model, lb.objectives.ELBO(), data, epochs=60, learning_rate=1e-2, progress=False
    )
    # 16 pixels are 16 log 256 = 89 nats where red tells the others, and 266 where it does not; 167
    # found
    assert history.series("distortion")[-1] < 200
