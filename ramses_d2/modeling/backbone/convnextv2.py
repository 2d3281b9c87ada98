"""ConvNeXt V2 as a Detectron2 backbone: timm's network, Detectron2's feature names (reference section 2.3).

Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders", CVPR 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from ...errors import RamsesError


class ConvNeXtV2(Backbone):
    """The raw outputs of the stages, named ``res2`` (stride 4) ... ``res5`` (stride 32).

    Args:
        name: a ConvNeXt of timm, such as ``convnextv2_femto``.
        out_features: the stages wanted; later ones are not built.
        depths, dims: blocks and channels of the four stages instead of the named model's.
        stem: "patch" (4x4, stride 4) or "overlap" (two 3x3 convolutions of stride 2).
        drop_path: largest stochastic-depth rate.
        checkpointing: recompute activations in the backward pass.

    Raises:
        RamsesError: ``name`` is no ConvNeXt of timm, or a feature does not exist.
    """

    def __init__(
        self,
        *,
        name: str,
        out_features: Sequence[str],
        depths: Sequence[int] = (),
        dims: Sequence[int] = (),
        stem: str = "patch",
        drop_path: float = 0.0,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if not timm.is_model(name) or not name.startswith("convnext"):
            raise RamsesError(f'MODEL.CONVNEXTV2.NAME: "{name}" is not a ConvNeXt of timm, try convnextv2_femto')
        unknown = set(out_features) - {"res2", "res3", "res4", "res5"}
        if unknown:
            raise RamsesError(
                f"MODEL.FPN.IN_FEATURES: no feature {sorted(unknown)}, ConvNeXt has res2, res3, res4, res5"
            )
        overrides = {key: tuple(value) for key, value in (("depths", depths), ("dims", dims)) if value}
        # What rebuilds the whole timm network: checkpoint/backbone.py reads its parameter names and shapes there
        self.timm_name = name
        self.timm_arguments = {"stem_type": stem, **overrides}
        self.network = timm.create_model(
            name,
            features_only=True,
            out_indices=[int(feature[-1]) - 2 for feature in sorted(out_features)],
            drop_path_rate=drop_path,
            **self.timm_arguments,
        )
        self.network.set_grad_checkpointing(checkpointing)
        info = self.network.feature_info
        self._out_features = sorted(out_features)
        self._out_feature_channels = dict(zip(self._out_features, info.channels(), strict=True))
        self._out_feature_strides = dict(zip(self._out_features, info.reduction(), strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) -> feature name to (N, C, H / stride, W / stride)."""
        return dict(zip(self._out_features, self.network(x), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every feature, as timm's ``feature_info`` states them."""
        return {
            name: ShapeSpec(channels=self._out_feature_channels[name], stride=self._out_feature_strides[name])
            for name in self._out_features
        }
