"""Prediction of many images, or of the frames of a conveyor belt, into a run folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..analysis.images import ImageFile
from ..analysis.prediction import image_overlay, image_result
from ..analysis.run_folder import RunFolder
from ..analysis.stream import FrameInstances, instances_from_prediction
from ..analysis.stream.run import StreamRun, StreamSettings, remove_windows
from ..data import read_image
from ..errors import RamsesError
from ..modeling.mass import known_resolution
from .predictor import RamsesPredictor

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
