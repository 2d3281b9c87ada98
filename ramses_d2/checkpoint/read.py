"""Reading weights files without ever executing what is in them.

A PyTorch checkpoint is a pickle, and a pickle can hold code. ``weights_only`` reads tensors and plain containers alone.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import RamsesError

# What torch.load raises for files that are truncated, no checkpoint at all, or hold more than tensors
_UNREADABLE = (RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError, ValueError, OSError)


def read_checkpoint(path: str | Path) -> Mapping[str, Any]:
    """Read a file written by ``torch.save``, on the CPU.

    Raises:
        RamsesError: no file, not a checkpoint, truncated, or with other objects than tensors in it.
    """
    if not Path(path).is_file():
        raise RamsesError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "global" in str(error).lower():
            raise RamsesError(
                f"{path}: holds other objects than tensors, which could run code, and is not loaded; save its state "
                f"dict alone, with torch.save(model.state_dict(), ...), where it was made"
            ) from error
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    except _UNREADABLE as error:
        raise RamsesError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(content, Mapping):
        raise RamsesError(f"{path}: holds no state dict but a {type(content).__name__}")
    return content


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a network: a bare state dict, or the one under "model" or "state_dict".

    Args:
        path: of Detectron2, Lightning, timm, torchvision, ConvNeXt V2 or RAMSES2.

    Raises:
        RamsesError: see :func:`read_checkpoint`, or no tensor in it.
    """
    content = read_checkpoint(path)
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    state = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
    if not state:
        raise RamsesError(f"{path}: holds no state dict")
    return state
