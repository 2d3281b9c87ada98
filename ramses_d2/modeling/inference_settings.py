"""The inference keys of a config, checked, as a plain object: post-processing itself never sees a config."""

from __future__ import annotations

from dataclasses import dataclass

from detectron2.config import CfgNode

from ..errors import RamsesError
from .nms import NMS_KINDS

MASK_FORMATS = ("bitmask", "rle")


@dataclass(frozen=True)
class InferenceSettings:
    """The keys of ``MODEL.RAMSES.TEST``, and ``TEST.DETECTIONS_PER_IMAGE``; see config.py for their meaning."""

    score_thresh: float
    use_point_nms: bool
    pre_nms_topk: int
    mask_thresh: float
    mask_scoring: bool
    min_area: int
    nms: str
    nms_thresh: float
    nms_sigma: float
    nms_min_score: float
    nms_class_agnostic: bool
    binary_mass_masks: bool
    mask_format: str
    max_detections: int

    def __post_init__(self) -> None:
        """Check the keys that are names.

        Raises:
            RamsesError: an unknown kind of NMS or mask format.
        """
        for key, value, allowed in (("NMS", self.nms, NMS_KINDS), ("MASK_FORMAT", self.mask_format, MASK_FORMATS)):
            if value not in allowed:
                raise RamsesError(f'MODEL.RAMSES.TEST.{key} is "{value}", use one of {", ".join(allowed)}')

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceSettings:
        """Read ``MODEL.RAMSES.TEST`` and ``TEST.DETECTIONS_PER_IMAGE``."""
        test = cfg.MODEL.RAMSES.TEST
        return cls(
            score_thresh=test.SCORE_THRESH,
            use_point_nms=test.POINT_NMS,
            pre_nms_topk=test.PRE_NMS_TOPK,
            mask_thresh=test.MASK_THRESH,
            mask_scoring=test.MASK_SCORING,
            min_area=test.MIN_AREA,
            nms=test.NMS,
            nms_thresh=test.NMS_THRESH,
            nms_sigma=test.NMS_SIGMA,
            nms_min_score=test.NMS_MIN_SCORE,
            nms_class_agnostic=test.NMS_CLASS_AGNOSTIC,
            binary_mass_masks=test.BINARY_MASS_MASKS,
            mask_format=test.MASK_FORMAT,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )
