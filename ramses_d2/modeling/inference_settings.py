"""The inference keys of a config, checked, as a plain object: post-processing itself never sees a config."""

from __future__ import annotations

import dataclasses
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

    def override(
        self,
        *,
        score_threshold: float | None = None,
        seg_threshold: float | None = None,
        nms_threshold: float | None = None,
        max_detections: int | None = None,
        point_nms: bool | None = None,
        use_binary_masks: bool | None = None,
        min_area: int | None = None,
    ) -> InferenceSettings:
        """Settings with some of them replaced, under the names that the calls of RAMSES have; None leaves one as it is.

        Args:
            score_threshold: smallest class score, inclusive.
            seg_threshold: probability from which on a pixel belongs to a mask.
            nms_threshold: greedy NMS: IoU above which the lower score goes; soft and matrix NMS: the decayed score
                below which an instance goes.
            max_detections: instances of an image.
            point_nms: keep only cells that are the best of their neighbourhood.
            use_binary_masks: sum the geometry map over the binary mask rather than the soft one.
            min_area: masks must be larger; pixels of the mask grid.

        Raises:
            RamsesError: a threshold outside 0..1, or a negative number.
        """
        for name, value in (
            ("score_threshold", score_threshold),
            ("seg_threshold", seg_threshold),
            ("nms_threshold", nms_threshold),
        ):
            if value is not None and not 0 <= value <= 1:
                raise RamsesError(f"{name}={value}: give a number from 0 to 1")
        for name, number in (("max_detections", max_detections), ("min_area", min_area)):
            if number is not None and number < 0:
                raise RamsesError(f"{name}={number}: give a number from 0 on")
        changes = {
            "score_thresh": score_threshold,
            "mask_thresh": seg_threshold,
            "nms_thresh" if self.nms in ("greedy", "none") else "nms_min_score": nms_threshold,
            "max_detections": max_detections,
            "use_point_nms": point_nms,
            "binary_mass_masks": use_binary_masks,
            "min_area": min_area,
        }
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})

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
