"""Prediction of many images, or of the frames of a conveyor belt, into a run folder."""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import detectron2
import numpy as np
import pandas as pd
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from tqdm import tqdm

from ramses_d2.analysis.run import ImageFile, RunFolder, image_overlay, image_result
from ramses_d2.analysis.stream.instances import FrameInstances, instances_from_prediction
from ramses_d2.analysis.stream.run import StreamRun, StreamSettings, remove_windows
from ramses_d2.checkpoint.load import load_weights
from ramses_d2.data.images import read_image
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mass import known_resolution

# Parts of a config that have no effect on what a network predicts
_UNRELATED = ("DATASETS", "DATALOADER", "SOLVER", "OUTPUT_DIR", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK")


def file_hash(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        while block := stream.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def run_settings(cfg: CfgNode) -> dict[str, Any]:
    """The hash of the weights and the config keys that a prediction depends on, ready for JSON.

    Args:
        cfg: config, with the weights in ``MODEL.WEIGHTS``.
    """
    config = yaml.safe_load(cfg.dump())
    for key in _UNRELATED:
        config.pop(key, None)
    config["MODEL"].pop("WEIGHTS")
    config["MODEL"].pop("DEVICE")
    return {"weights_sha256": file_hash(cfg.MODEL.WEIGHTS), "config": config}


def versions() -> dict[str, str]:
    """Versions of the programs that have a say in the numbers."""
    return {
        "ramses_d2": metadata.version("ramses_d2"),
        "detectron2": detectron2.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


class RamsesPredictor(DefaultPredictor):
    """A ``DefaultPredictor`` that can be told the resolution of each image, and whose weights must all fit.

    Example::

        predictor = RamsesPredictor(cfg)
        instances = predictor(cv2.imread("belt.jpg"), resolution=28.7)["instances"]
        instances.pred_masses  # grams
        predictor(image, score_threshold=0.3, min_area=16)  # other settings for one call

    Raises:
        RamsesError: ``MODEL.WEIGHTS`` is empty, missing, unreadable, or does not fit the config.
    """

    def __init__(self, cfg: CfgNode) -> None:
        bare = cfg.clone()
        bare.defrost()
        bare.MODEL.WEIGHTS = bare.MODEL.CONVNEXTV2.WEIGHTS = bare.MODEL.TIMM.WEIGHTS = ""  # load_weights has them all
        super().__init__(bare)
        load_weights(self.model, cfg.MODEL.WEIGHTS)
        if cfg.DATASETS.TEST and cfg.MODEL.RAMSES.CLASS_NAMES and not hasattr(self.metadata, "thing_classes"):
            self.metadata.thing_classes = list(cfg.MODEL.RAMSES.CLASS_NAMES)  # for Detectron2's Visualizer

    def __call__(self, original_image: np.ndarray, resolution: float | None = None, **overrides: Any) -> dict[str, Any]:
        """Predict one image.

        Args:
            original_image: (H, W, 3) uint8, or float32 of 0 to 255, in BGR order, as cv2 reads it.
            resolution: px/mm; None = ``INPUT.RESOLUTION``.
            overrides: score_threshold, seg_threshold, nms_threshold, max_detections, point_nms, use_binary_masks or
                min_area, see :meth:`~ramses_d2.modeling.inference_settings.InferenceSettings.override`.

        Returns:
            {"instances": Instances} with pred_boxes, pred_masks, pred_classes, scores and pred_masses (grams).

        Raises:
            RamsesError: no such image, a resolution that is not above 0, or an override out of range.
        """
        return self.predict_batch([original_image], [resolution], **overrides)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], resolutions: Sequence[float | None] | None = None, **overrides: Any
    ) -> list[dict[str, Any]]:
        """Predict several images; those of one size go through the network together.

        Args:
            images: see :meth:`__call__`.
            resolutions: px/mm of each; None = ``INPUT.RESOLUTION``.
            overrides: see :meth:`__call__`.

        Returns:
            what :meth:`__call__` returns, of each image.
        """
        settings = self.model.settings.override(**overrides)
        resolutions = resolutions if resolutions is not None else [None] * len(images)
        items = [self._item(*pair) for pair in zip(images, resolutions, strict=True)]
        with torch.no_grad():
            return self.model.inference(items, settings)

    def check_image(self, image: np.ndarray) -> None:
        """Make sure that the network can take an image.

        Args:
            image: see :meth:`__call__`.

        Raises:
            RamsesError: not of that shape or type, or so thin that nothing is left of it at the size of the network.
        """
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            raise RamsesError("the image is no (H, W, 3) array; cv2.imread returns None for a file it cannot read")
        height, width, channels = image.shape
        if channels != 3 or not height or not width or image.dtype not in (np.uint8, np.float32):
            raise RamsesError(
                f"the image is a {image.shape} array of {image.dtype}: give (H, W, 3) uint8 (or float32 of 0 to "
                "255) with at least one pixel, in BGR order as cv2.imread reads it"
            )
        if self.cfg.INPUT.MIN_SIZE_TEST and not all(
            self.aug.get_output_shape(height, width, self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST)
        ):
            raise RamsesError(
                f"the image of {height} x {width} px (H x W) is too thin for a network input of at most "
                f"{self.cfg.INPUT.MAX_SIZE_TEST} px (INPUT.MAX_SIZE_TEST): cut it into shorter pieces"
            )

    def _item(self, original_image: np.ndarray, resolution: float | None) -> dict[str, Any]:
        self.check_image(original_image)
        if resolution is not None and resolution <= 0:
            raise RamsesError(f"resolution={resolution}: give the px/mm of the image, a number above 0")
        height, width = original_image.shape[:2]
        if self.input_format == "RGB":
            original_image = original_image[:, :, ::-1]
        image = self.aug.get_transform(original_image).apply_image(original_image)
        item: dict[str, Any] = {
            "image": torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "height": height,
            "width": width,
        }
        if resolution is not None:
            item["resolution"] = resolution
        return item


Failures = list[tuple[str, str]]


def predict_images(
    predictor: RamsesPredictor,
    run: RunFolder,
    image_files: Sequence[ImageFile],
    *,
    score_threshold: float,
    fragments: str = "drop",
    min_area_px: float = 0,
    min_area_mm2: float | None = None,
    batch_size: int = 1,
    overlays: bool = True,
) -> tuple[pd.DataFrame, Failures]:
    """Predict images one by one; what an earlier start of the run has done is not done again.

    Args:
        predictor: gives run-length masks (``MODEL.RAMSES.TEST.MASK_FORMAT`` "rle") or bit masks.
        run: takes the results.
        images: to predict; those without a resolution have ``INPUT.RESOLUTION``.
        score_threshold: what is less sure is no particle.
        fragments, min_area_px, min_area_mm2: see :func:`~ramses_d2.analysis.fragments.handle_fragments`.
        batch_size: images that go through the network together.
        overlays: draw the outlines.

    Returns:
        the particle table of the run, and the path of each image that could not be read, or that the network cannot
        take, with the reason.

    Raises:
        RamsesError: none of the images can be predicted.
    """
    resolutions = {image_file: _resolution(predictor, image_file) for image_file in image_files}
    _check_area(min_area_mm2, list(resolutions.values()))
    todo = [image_file for image_file in image_files if not run.is_done(image_file, resolutions[image_file])]
    if len(todo) < len(image_files):
        print(f"{len(image_files) - len(todo)} of {len(image_files)} images are done already", file=sys.stderr)
    if changed := sum(run.has(image_file) for image_file in todo):
        print(f"{changed} have changed since, or their resolution has, and are predicted again", file=sys.stderr)
    failed: Failures = []
    particles = 0
    with tqdm(total=len(todo), unit="picture", disable=None) as progress:
        for start in range(0, len(todo), batch_size):
            images, batch = [], []
            for image_file in todo[start : start + batch_size]:
                try:
                    image = _read(predictor, image_file)
                except RamsesError as error:
                    failed.append((str(image_file.path), str(error)))
                    progress.write(f"skipped: {error}", file=sys.stderr)
                    progress.update()
                    continue
                images.append(image)
                batch.append(image_file)
            known = [resolutions[image_file] for image_file in batch]
            outputs = predictor.predict_batch([image[:, :, ::-1] for image in images], known)
            for image_file, image, output in zip(batch, images, outputs, strict=True):
                instances = output["instances"].to("cpu")
                resolution = resolutions[image_file] or math.nan
                result = image_result(
                    image_file.path.name,
                    instances[instances.scores >= score_threshold],
                    run.class_names,
                    resolution,
                    fragments=fragments,
                    min_area_px=min_area_px,
                    min_area_mm2=min_area_mm2,
                )
                overlay = image_overlay(image, result, run.class_names) if overlays else None
                run.add(image_file, image.shape[:2], resolution, result.labels, result.table, overlay)
                particles += len(result.table)
                progress.set_postfix(particles=particles, refresh=False)
                progress.update()
    _stop_if_all_failed(failed, image_files)
    return run.finish(failed), failed


def predict_belt(
    predictor: RamsesPredictor,
    run: RunFolder,
    frames: Sequence[ImageFile],
    settings: StreamSettings,
    *,
    score_threshold: float,
) -> tuple[pd.DataFrame, Failures]:
    """Predict the consecutive frames of a belt; a run that was stopped looks at no part of the belt twice.

    Args:
        predictor, run, score_threshold: see :func:`predict_images`.
        frames: in the order of the belt.
        settings: how they lie on it, and what counts.

    Returns:
        see :func:`predict_images`.

    Raises:
        RamsesError: frames of several resolutions, a frame that does not continue the one before, or none that can be
            read.
    """
    resolutions = {_resolution(predictor, frame) for frame in frames}
    if len(resolutions) > 1:
        raise RamsesError(f"frames of one belt need one resolution, these have {len(resolutions)}")
    resolution = resolutions.pop()
    _check_area(settings.min_area_mm2, [resolution])
    if all(run.is_done(frame, resolution) for frame in frames):
        print(f"all {len(frames)} frames are done already", file=sys.stderr)
        table = run.finish()
        remove_windows(run)
        return table, []

    if changed := [frame.path.name for frame in frames if run.has(frame) and not run.is_done(frame, resolution)]:
        print(f"{', '.join(changed[:3])} changed since: what shows them is predicted again", file=sys.stderr)
    elif run.resumed:
        print("going on with a run that was stopped", file=sys.stderr)

    def predict(image: np.ndarray) -> FrameInstances:
        return instances_from_prediction(predictor(image[:, :, ::-1], resolution)["instances"], score_threshold)

    with tqdm(total=len(frames), unit="frame", disable=None) as progress:
        belt = StreamRun(
            run,
            predict,
            lambda frame: read_image(frame.path),
            resolution or math.nan,
            settings,
            lambda sentence: progress.write(sentence, file=sys.stderr),
        )
        for particles in belt.frames(frames):
            progress.set_postfix(particles=particles, refresh=False)
            progress.update(progress.n < len(frames))
    _stop_if_all_failed(belt.failed, frames)
    return belt.finish(), belt.failed


def _read(predictor: RamsesPredictor, image_file: ImageFile) -> np.ndarray:
    """(H, W, 3) uint8 RGB, such as the network can take."""
    image = read_image(image_file.path)
    try:
        predictor.check_image(image)
    except RamsesError as error:
        raise RamsesError(f"{image_file.path}: {error}") from error
    return image


def _resolution(predictor: RamsesPredictor, image: ImageFile) -> float | None:
    return known_resolution(image.resolution, predictor.cfg.INPUT.RESOLUTION)


def _check_area(min_area_mm2: float | None, resolutions: Sequence[float | None]) -> None:
    if min_area_mm2 is not None and None in resolutions:
        raise RamsesError(f"a smallest area of {min_area_mm2:g} mm2 needs the resolution: give --resolution (px/mm)")


def _stop_if_all_failed(failed: Failures, images: Sequence[ImageFile]) -> None:
    if len(failed) == len(images):
        raise RamsesError(f"none of the {len(images)} images could be read, the first because {failed[0][1]}")
