"""Pretrained weights that timm downloads, as ``timm://<network>.<weights>``."""

from __future__ import annotations

import timm
import torch
from timm.models import get_pretrained_cfg, load_state_dict_from_hf

from ..errors import RamsesError

SCHEME = "timm://"


def download(source: str, architecture: str, *, key: str) -> dict[str, torch.Tensor]:
    """Fetch, or take from the cache, the tensors of one of timm's pretrained networks.

    Args:
        source: such as ``timm://convnextv2_femto.fcmae_ft_in1k``.
        architecture: the network they are for.
        key: config key to name in errors.

    Raises:
        RamsesError: weights of another network or none that timm has, or no connection.
    """
    name = source.removeprefix(SCHEME)
    if name.partition(".")[0] != architecture:
        raise RamsesError(f"{key}: {source} has weights of another network than {architecture}")
    known = timm.list_pretrained(f"{architecture}.*")
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        have = f"it has {', '.join(known)}" if known else "it has none for this network"
        raise RamsesError(f"{key}: timm has no weights {source}, {have}")
    if not config.hf_hub_id:
        raise RamsesError(f"{key}: {source} is not on the Hugging Face hub: download {config.url} and name that file")
    try:
        return load_state_dict_from_hf(config.hf_hub_id, weights_only=True)
    except Exception as error:  # any layer of a download can fail, each in its own way
        raise RamsesError(
            f"{key}: cannot download {source} from the Hugging Face hub ({type(error).__name__}); without a "
            f"connection, download its model.safetensors elsewhere and name that file"
        ) from error
