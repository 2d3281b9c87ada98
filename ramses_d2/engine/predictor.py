"""Prediction: of single images from Python, and of many images or the frames of a belt into a run folder."""

from __future__ import annotations

import hashlib
import math
import platform
import sys
from collections.abc import Sequence
from functools import partial
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
from ramses_d2.analysis.stream.run import StreamRun, remove_windows
from ramses_d2.analysis.stream.stitch import FrameInstances, instances_from_prediction
from ramses_d2.checkpoint.load import load_weights
from ramses_d2.data.images import read_image
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.mass import known_resolution

# Parts of a config that have no effect on what a network predicts
_UNRELATED = ("DATASETS", "DATALOADER", "SOLVER", "OUTPUT_DIR", "SEED", "VIS_PERIOD", "CUDNN_BENCHMARK")

Failures = list[tuple[str, str]]  # paths of images that could not be predicted, and why


def file_hash(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for block in iter(partial(stream.read, 2**20), b""):
            digest.update(block)
    return digest.hexdigest()


def run_settings(cfg: CfgNode) -> dict[str, Any]:
    """The hash of the weights and the config keys that a prediction depends on, ready for JSON."""
    config = yaml.safe_load(cfg.dump())
    for key in _UNRELATED:
        config.pop(key, None)
    del config["MODEL"]["WEIGHTS"], config["MODEL"]["DEVICE"]
    return {"weights_sha256": file_hash(cfg.MODEL.WEIGHTS), "config": config}


def versions() -> dict[str, str]:
    """Versions of the programs that have a say in the numbers."""
    modules = {"detectron2": detectron2.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return {"ramses_d2": metadata.version("ramses_d2"), **modules}


class RamsesPredictor(DefaultPredictor):
    """A ``DefaultPredictor`` that can be told the resolution of each image, and whose weights must all fit.

    Example::

        instances = RamsesPredictor(cfg)(cv2.imread("belt.jpg"), resolution=28.7)["instances"]
        instances.pred_masses  # grams
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
        """Predict an image (H, W, 3) uint8, or float32 of 0 to 255, in BGR order; px/mm default to INPUT.RESOLUTION.

        Overrides are those of ``InferenceSettings.override``. Returns {"instances": Instances} with pred_boxes,
        pred_masks, pred_classes, scores and pred_masses (grams).
        """
        return self.predict_batch([original_image], [resolution], **overrides)[0]

    def predict_batch(
        self, images: Sequence[np.ndarray], resolutions: Sequence[float | None] | None = None, **overrides: Any
    ) -> list[dict[str, Any]]:
        """Predict several images, as :meth:`__call__` does one; those of one size go through the network together."""
        settings = self.model.settings.override(**overrides)
        resolutions = [None] * len(images) if resolutions is None else resolutions
        items = [self._item(*pair) for pair in zip(images, resolutions, strict=True)]
        with torch.no_grad():
            return self.model.inference(items, settings)

    def check_image(self, image: np.ndarray) -> None:
        """Stop at an image that the network cannot take."""
        is_array = isinstance(image, np.ndarray)
        if not is_array or image.shape[2:] != (3,) or not image.size or image.dtype not in (np.uint8, np.float32):
            what = f"a {image.shape} array of {image.dtype}" if is_array else f"{image!r:.40}"
            raise RamsesError(
                f"the image is {what}: give (H, W, 3) uint8, or float32 of 0 to 255, in BGR order "
                "as cv2.imread reads it (cv2.imread returns None for a file it cannot read)"
            )
        height, width, _ = image.shape
        smallest, largest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        if smallest and not all(self.aug.get_output_shape(height, width, smallest, largest)):
            raise RamsesError(
                f"the image of {height} x {width} px (H x W) is too thin for a network input of at most {largest} px "
                "(INPUT.MAX_SIZE_TEST): cut it into shorter pieces"
            )

    def _item(self, image: np.ndarray, resolution: float | None) -> dict[str, Any]:
        """The model's input: the image as the network sees it, and its size and resolution on the disk."""
        self.check_image(image)
        if resolution is not None and resolution <= 0:
            raise RamsesError(f"resolution={resolution}: give the px/mm of the image, a number above 0")
        item = {"height": image.shape[0], "width": image.shape[1]}
        if resolution is not None:
            item["resolution"] = resolution
        image = image[:, :, ::-1] if self.input_format == "RGB" else image
        image = self.aug.get_transform(image).apply_image(image)
        return item | {"image": torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))}


def predict_images(
    predictor: RamsesPredictor,
    run: RunFolder,
    image_files: Sequence[ImageFile],
    *,
    score_threshold: float,
    batch_size: int = 1,
    overlays: bool = True,
    **fragments: Any,
) -> tuple[pd.DataFrame, Failures]:
    """Predict images into a run folder, but for those that an earlier start of the run has done; returns its table.

    ``fragments`` are further options of :func:`~ramses_d2.analysis.run.image_result`. No image at all is an error.
    """
    resolutions = _resolutions(predictor, image_files, **fragments)
    todo = [image_file for image_file in image_files if not run.is_done(image_file, resolutions[image_file])]
    if len(todo) < len(image_files):
        print(f"{len(image_files) - len(todo)} of {len(image_files)} images are done already", file=sys.stderr)
    if changed := sum(run.has(image_file) for image_file in todo):
        print(f"{changed} have changed since, or their resolution has, and are predicted again", file=sys.stderr)
    failed, particles = [], 0
    with tqdm(total=len(todo), unit="image", disable=None) as progress:
        for start in range(0, len(todo), batch_size):
            batch = {}
            for image_file in todo[start : start + batch_size]:
                try:
                    batch[image_file] = _read(predictor, image_file)
                except RamsesError as error:
                    failed.append((str(image_file.path), str(error)))
                    progress.write(f"skipped: {error}", file=sys.stderr)
                    progress.update()
            bgr = [image[:, :, ::-1] for image in batch.values()]
            outputs = predictor.predict_batch(bgr, [resolutions[image_file] for image_file in batch])
            for (image_file, image), output in zip(batch.items(), outputs, strict=True):
                instances, resolution = output["instances"].to("cpu"), resolutions[image_file] or math.nan
                instances = instances[instances.scores >= score_threshold]
                result = image_result(image_file.path.name, instances, run.class_names, resolution, **fragments)
                overlay = image_overlay(image, result, run.class_names) if overlays else None
                run.add(image_file, image.shape[:2], resolution, result.labels, result.table, overlay)
                particles += len(result.table)
                progress.set_postfix(particles=particles, refresh=False)
                progress.update()
    _stop_if_all_failed(failed, image_files)
    return run.finish(failed), failed


def predict_belt(
    predictor: RamsesPredictor, run: RunFolder, frames: Sequence[ImageFile], *, score_threshold: float, **settings: Any
) -> tuple[pd.DataFrame, Failures]:
    """The same for the frames of a belt, in their order; settings are those of :class:`.stream.run.StreamRun`."""
    resolutions = set(_resolutions(predictor, frames, **settings).values())
    if len(resolutions) > 1:
        raise RamsesError(f"frames of one belt need one resolution, these have {len(resolutions)}")
    resolution = resolutions.pop()
    if all(run.is_done(frame, resolution) for frame in frames):
        print(f"all {len(frames)} frames are done already", file=sys.stderr)
        remove_windows(run)
        return run.finish(), []
    if changed := [frame.path.name for frame in frames if run.has(frame) and not run.is_done(frame, resolution)]:
        print(f"{', '.join(changed[:3])} changed since: what shows them is predicted again", file=sys.stderr)
    elif run.resumed:
        print("going on with a run that was stopped", file=sys.stderr)

    def predict(image: np.ndarray) -> FrameInstances:
        return instances_from_prediction(predictor(image[:, :, ::-1], resolution)["instances"], score_threshold)

    with tqdm(total=len(frames), unit="frame", disable=None) as progress:
        warn = partial(progress.write, file=sys.stderr)
        belt = StreamRun(run, predict, lambda frame: read_image(frame.path), resolution or math.nan, warn, **settings)
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


def _resolutions(
    predictor: RamsesPredictor, images: Sequence[ImageFile], min_area_mm2: float | None = None, **_: Any
) -> dict[ImageFile, float | None]:
    """px/mm of each image, its own or INPUT.RESOLUTION; an area in mm2 needs all of them."""
    found = {image: known_resolution(image.resolution, predictor.cfg.INPUT.RESOLUTION) for image in images}
    if min_area_mm2 is not None and None in found.values():
        raise RamsesError(f"a smallest area of {min_area_mm2:g} mm2 needs the resolution: give --resolution (px/mm)")
    return found


def _stop_if_all_failed(failed: Failures, images: Sequence[ImageFile]) -> None:
    if len(failed) == len(images):
        which = "the only image" if len(images) == 1 else f"any of the {len(images)} images"
        raise RamsesError(f"cannot read {which}: {failed[0][1]}")
