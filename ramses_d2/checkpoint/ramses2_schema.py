"""The attributes of a RAMSES2 config.json, their defaults, and checked access (reference sections 2.1 and 2.3)."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import torch

from ..errors import RamsesError

logger = logging.getLogger(__name__)

# What the original's Config class has where a file says nothing
DEFAULTS: dict[str, Any] = {
    "load_backbone": False,
    "backbone_params": {},
    "backbone": "Resnext",
    "backbone_source": "local",
    "backbone_feature_nodes": {"ops.2": "C2", "ops.6": "C3", "ops.12": "C4", "ops.15": "C5"},
    "ncls": 1,
    "imshape": [4096, 6144, 3],
    "mask_stride": 4,
    "activation": "SiLU",
    "normalization": "GroupNorm",
    "normalization_kw": {"num_groups": 32},
    "connection_layers": {"C2": 256, "C3": 512, "C4": 1024, "C5": 2048},
    "FPN_filters": 256,
    "extra_FPN_layers": 1,
    "strides": [4, 8, 16, 32, 64],
    "head_layers": 4,
    "head_filters": 256,
    "kernel_size": 1,
    "grid_sizes": [64, 36, 24, 16, 12],
    "cls_factor_layers": 2,
    "point_nms": False,
    "mask_mid_filters": 128,
    "mask_output_filters": 256,
    "geom_feat_convs": 2,
    "geom_feats_filters": 128,
    "mask_output_level": 0,
    "FPN_output_upscaling": False,
    "sigma_nms": 0.5,
    "min_area": 0,
    "use_binary_masks": True,
    "lossweights": [1.0, 1.0, 1.0],
    "max_pos_samples": 512,
    "scale_ranges": [[1, 96], [48, 192], [96, 384], [192, 768], [384, 2048]],
    "offset_factor": 0.25,
    "use_geom": True,
}

# Blocks and channels of the four stages of the backbones
BACKBONES = {
    "convnextv2_atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "convnextv2_femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "convnextv2_pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "convnextv2_nano": ((2, 2, 8, 2), (80, 160, 320, 640)),
    "convnextv2_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnextv2_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnextv2_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
    "convnextv2_huge": ((3, 3, 27, 3), (352, 704, 1408, 2816)),
}
# The class behind all of them, with the blocks and channels as "depths" and "dims" of backbone_params
GENERIC_BACKBONE = "ConvNeXtV2"

# Name there -> ours, and the eps where normalization_kw gives none (RMSNorm: that of the number type)
NORMS = {
    "LayerNorm2d": ("LN", 1e-5),
    "RMSNorm2d": ("RMS", torch.finfo(torch.float32).eps),
    "BatchNorm2d": ("BN", 1e-5),
    "Identity": ("", 1e-5),
}


class Ramses2Values:
    """The attributes of a RAMSES2 config, each checked as it is read.

    Args:
        config: the content of config.json.

    Raises:
        RamsesError: here and in every method, an attribute that is unknown or wrong; the message names it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        if config and not set(config) & set(DEFAULTS):
            raise RamsesError("none of RAMSES2's attributes is in it: is it the config.json of the model?")
        unknown = sorted(set(config) - set(DEFAULTS))
        if unknown:  # the original stores whatever it is given; its training notebook adds "database"
            logger.warning("RAMSES2's network does not know %s, which is left out", ", ".join(map(repr, unknown)))
        self._values = DEFAULTS | dict(config)

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Stop because of one attribute."""
        note = " (RAMSES2's default)" if self[key] == DEFAULTS[key] else ""
        raise RamsesError(f'"{key}" is {self[key]!r}{note}: {wanted}')

    def choice(self, key: str, allowed: Collection[str], why: str = "") -> str:
        """One of some names."""
        if not isinstance(self[key], str) or self[key] not in allowed:
            self.refuse(key, f"{why}{', '.join(allowed)} can be converted")
        return self[key]

    def whole(self, key: str, low: int = 1) -> int:
        """A whole number from ``low`` on."""
        if type(self[key]) is not int or self[key] < low:
            self.refuse(key, f"give a whole number from {low} on")
        return self[key]

    def number(self, key: str) -> float:
        """A number from 0 on."""
        if type(self[key]) not in (int, float) or not self[key] >= 0:
            self.refuse(key, "give a number from 0 on")
        return float(self[key])

    def flag(self, key: str) -> bool:
        """True or false."""
        if type(self[key]) is not bool:
            self.refuse(key, "give true or false")
        return self[key]

    def mapping(self, key: str) -> dict[str, Any]:
        """A JSON object."""
        if not isinstance(self[key], Mapping):
            self.refuse(key, "give an object {...}")
        return dict(self[key])

    def numbers(self, key: str, length: int, wanted: str, kinds: tuple[type, ...] = (int, float)) -> list[Any]:
        """A list of ``length`` numbers."""
        if not is_numbers(self[key], length, kinds):
            self.refuse(key, wanted)
        return list(self[key])


def is_numbers(value: Any, length: int, kinds: tuple[type, ...] = (int, float)) -> bool:
    """Whether a value is a list of ``length`` numbers above 0, or of 0."""
    return (
        isinstance(value, (list, tuple))
        and len(value) == length
        and all(type(number) in kinds and number >= 0 for number in value)
    )
