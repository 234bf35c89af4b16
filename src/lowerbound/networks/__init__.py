"""Networks: factories (in_shape, out_shape) -> module, mapping (N, *in_shape) to (N, *out_shape)."""

from lowerbound.networks.mlp import MLP

__all__ = ["MLP"]
