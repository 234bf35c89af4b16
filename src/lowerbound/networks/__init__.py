"""Networks: factories (in_shape, out_shape) -> module, mapping (N, *in_shape) to (N,
*out_shape).
"""

from lowerbound.networks.conv import Conv
from lowerbound.networks.fully_conv import FullyConv
from lowerbound.networks.mlp import MLP
from lowerbound.networks.resnet import ResNet

__all__ = ["MLP", "Conv", "FullyConv", "ResNet"]
