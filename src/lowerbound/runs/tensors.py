"""Tensors in a file: safetensors, in which nothing can execute, with a digest of what it holds.

The digest covers names, types, shapes and values, and stands in the file's own header, so that one
atomic write carries both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from lowerbound.runs.digests import KEY
from lowerbound.utils.files import parse_json, write_atomic
from lowerbound.utils.messages import first_line

# one entry of the header, a JSON text: several would come in an order of their own each time, and
# the same run would not write the same file
ABOUT = "lowerbound"
PRECISIONS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class TensorFile:
    """What a file of tensors holds.

    Args:
        tensors: by name.
        about: what its header says beside them.
        sha256: of both, as it was found; compared with what the header says.
        is_signed: whether the header says one.
    """

    tensors: dict[str, Tensor]
    about: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    is_signed: bool = False


def digest_of(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """The digest of tensors and of what is said about them.

    Example:
        >>> digest_of({"w": torch.zeros(2)}, {})[:16], digest_of({"w": torch.ones(2)}, {})[:16]
        ('b5a8be9d351eefc6', 'c50d1fc2b54bc14e')
    """
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # a copy in a row: of one number the strides may be any, and then it has no view as bytes
        values = torch.empty(tensor.numel(), dtype=tensor.dtype, device="cpu")
        digest.update(values.copy_(tensor.reshape(-1)).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None
) -> str:
    """Write tensors by name as safetensors, with their digest in the header, which is returned.

    Args:
        path: the file.
        tensors: what it is to hold.
        about: what its header is to say beside them, which JSON can hold.
    """
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    sha256 = digest_of(plain, about or {})
    content = save_tensors(plain, {ABOUT: json.dumps({**(about or {}), KEY: sha256})})
    write_atomic(path, lambda stream: stream.write(content))
    return sha256


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; nothing in it can execute.

    Raises:
        ValueError: see :func:`read_tensor_file`.
    """
    return read_tensor_file(path).tensors


def read_tensor_file(path: Path, remedy: str = "restore it from a copy") -> TensorFile:
    """A safetensors file, whose digest is compared where it has one.

    Args:
        path: the file.
        remedy: what to do where it is damaged.

    Raises:
        ValueError: the file is missing, truncated, of another kind, or damaged.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    content = path.read_bytes()
    try:
        tensors = dict(load_tensors(content))
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")].decode())
        if "__metadata__" not in header:
            return TensorFile(tensors)
        about = dict(parse_json(header["__metadata__"].get(ABOUT, "{}")))
        said = about.pop(KEY, None)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file: {first_line(error)}; {remedy}"
        ) from None
    except Exception as error:  # a type that this torch does not have: KeyError, or another
        raise ValueError(f"{path} cannot be read: {first_line(error)}; {remedy}") from None
    sha256 = digest_of(tensors, about)
    if said != sha256:
        raise ValueError(
            f"{path} is damaged: its content is not what was written (its SHA-256 differs); "
            f"{remedy}"
        )
    return TensorFile(tensors, about, sha256, is_signed=True)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module, in their own precision; units of data keep theirs
    (:class:`~lowerbound.units.Standardizer`).

    Raises:
        ValueError: names, shapes or types do not fit.
    """
    expected = module.state_dict()
    missing = sorted(expected.keys() - tensors.keys())
    extra = sorted(tensors.keys() - expected.keys())
    if missing or extra:
        raise ValueError(
            f"{where} does not fit the model: "
            + "; ".join(
                f"{word} {', '.join(names[:3])}"
                for word, names in (("lacks", missing), ("has", extra))
                if names
            )
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"{where} does not fit the model: {name} is {tuple(tensors[name].shape)}, not "
                f"{tuple(tensor.shape)}"
            )
        # what is no number of a known precision would be cast in silence
        if not _alike(tensors[name].dtype, tensor.dtype):
            raise ValueError(
                f"{where} does not fit the model: {name} is of type {tensors[name].dtype}, not "
                f"{tensor.dtype}"
            )
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    floating = {tensors[name].dtype for name in parameters}
    if len(floating) == 1:
        module.to(floating.pop())
    module.load_state_dict(dict(tensors))


def _alike(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether a tensor of one type can stand for one of another."""
    return one == other or (one in PRECISIONS and other in PRECISIONS)


def total(tensors: Mapping[str, Any]) -> int:
    """How many numbers there are in all."""
    return sum(tensor.numel() for tensor in tensors.values())
