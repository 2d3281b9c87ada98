"""Truth and prediction of an image side by side, every particle coloured by what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from ramses_d2.analysis.appearance import Color
from ramses_d2.analysis.captions import caption_font
from ramses_d2.analysis.drawing import draw_instances
from ramses_d2.data.label_map import paint_outlines, read_image

from .outcome import Outcome

# What became of a particle or a prediction, in colours that readers who see no red and green tell apart, too
RIGHT, WRONG_CLASS, ALONE = range(3)
COLORS: tuple[Color, ...] = ((86, 180, 233), (250, 220, 60), (213, 60, 0))
# Side of the image that is drawn on, px: larger ones are reduced first
_LONGEST = 1600
_GAP = 8
# Wider images stand one above the other
_WIDE = 2.5


def compare_image(outcome: Outcome, dataset_dict: dict[str, Any], longest: int = _LONGEST) -> np.ndarray:
    """Draw what an image shows and what the model reports in it.

    Args:
        outcome: of the evaluation.
        dataset dict: the image's dataset dict.
        longest: side of each of the two drawings at the most, px.

    Returns:
        (h, w, 3) uint8 RGB: truth on the left, or above where images are wide, and the prediction.

    Raises:
        RamsesError: the image cannot be read.
    """
    particles = outcome.particles[outcome.particles["image_id"] == dataset_dict["image_id"]]
    reported = outcome.reported[outcome.reported["image_id"] == dataset_dict["image_id"]]
    found = np.where(reported["match50"] < 0, ALONE, WRONG_CLASS)
    classes = outcome.particles["class_id"].reindex(reported["match50"]).to_numpy()
    found[classes == reported["class_id"]] = RIGHT
    paired = found != ALONE
    true = pd.Series(found[paired], reported["match50"][paired]).reindex(particles.index, fill_value=ALONE).to_numpy()

    image = _reduced(read_image(dataset_dict), _LONGEST)
    outlined = [annotation for annotation in outcome.truth["annotations"] if not annotation["iscrowd"]]
    panels = []
    for heading, rows, entries, states in (
        ("truth", particles, outlined, true),
        ("prediction", reported, outcome.results, found),
    ):
        drawing = draw_instances(
            image,
            _label_map(rows, entries, dataset_dict, image.shape[:2]),
            rows["class_id"].to_numpy(),
            rows["score"].to_numpy() if "score" in rows else None,
            rows["mass"].to_numpy(),
            class_names=outcome.class_names,
            mode="instance",
            colors=[COLORS[state] for state in states],
            alpha=0.25,
        )
        panels.append(
            _with_heading(_reduced(drawing, longest), f"{heading}: {_contents(rows)}", _legend(heading, states))
        )
    axis = 0 if panels[0].shape[1] > _WIDE * panels[0].shape[0] else 1
    gap = np.full_like(panels[0][:_GAP] if axis == 0 else panels[0][:, :_GAP], 255)
    return np.concatenate([panels[0], gap, panels[1]], axis=axis)


def _label_map(
    rows: pd.DataFrame, entries: Sequence[dict[str, Any]], dataset_dict: dict[str, Any], shape: tuple[int, int]
) -> np.ndarray:
    """Label map (H, W) of this shape: k = row k - 1; small masks lie on large ones."""
    order = np.argsort(-rows["area"].to_numpy(), kind="stable")
    outlines = [entries[row]["segmentation"] for row in rows.index[order]]
    labels = paint_outlines(outlines, (order + 1).tolist(), (dataset_dict["height"], dataset_dict["width"]))
    if labels.shape == shape:
        return labels
    return cv2.resize(labels.astype(np.uint16), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.int32)


def _contents(rows: pd.DataFrame) -> str:
    masses = rows["mass"].dropna()
    return f"{len(rows)} particles" + (f", {masses.sum():.4g} g" if len(masses) else "")


def _legend(heading: str, states: np.ndarray) -> list[tuple[Color, str]]:
    """Colour and meaning of each state, with its count."""
    meanings = ("right", "other class", "missed" if heading == "truth" else "false")
    counts = np.bincount(states, minlength=len(COLORS))
    return [(color, f"{count} {text}") for color, count, text in zip(COLORS, counts, meanings, strict=True)]


def _with_heading(drawing: np.ndarray, text: str, legend: Sequence[tuple[Color, str]]) -> np.ndarray:
    """The drawing below a white strip of two lines: what it is, and the legend."""
    height, width = drawing.shape[:2]
    size = max(10, min(26, width // 28))
    strip = Image.new("RGB", (width, 3 * size), "white")
    draw, font = ImageDraw.Draw(strip), caption_font(size)
    draw.text((size // 2, 1.2 * size), text, "black", font, anchor="ls")
    x = size / 2
    for color, meaning in legend:
        draw.rectangle((x, 1.75 * size, x + 0.8 * size, 2.55 * size), fill=color, outline="black")
        draw.text((x + 1.1 * size, 2.5 * size), meaning, "black", font, anchor="ls")
        x += 2.2 * size + font.getlength(meaning)
    return np.concatenate([np.asarray(strip), drawing])


def _reduced(image: np.ndarray, longest: int) -> np.ndarray:
    shrink = longest / max(image.shape[:2])
    return image if shrink >= 1 else cv2.resize(image, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
