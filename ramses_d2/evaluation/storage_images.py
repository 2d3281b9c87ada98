"""Annotated images for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.utils.events import EventStorage, get_event_storage

from .comparison import compare_image
from .outcome import Outcome

# Side of a drawing, px: TensorBoard keeps the images in its event file
_LONGEST = 900


def store_images(outcome: Outcome, dataset_dicts: Sequence[dict[str, Any]], count: int) -> None:
    """Put drawings of truth and prediction into the storage of a training, as "valid/<picture>"; nothing outside one.

    Args:
        outcome: of the evaluation.
        dataset dicts: dataset dicts; the images are spread over them, the same ones each time.
        count: images at the most.
    """
    storage = _storage()
    if storage is None or not count:
        return
    for index in np.unique(np.linspace(0, len(dataset_dicts) - 1, count).round().astype(int)):
        drawing = compare_image(outcome, dataset_dicts[index], _LONGEST)
        storage.put_image(
            f"valid/{dataset_dicts[index]['image_name']}", np.ascontiguousarray(drawing.transpose(2, 0, 1))
        )


def _storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:  # Detectron2 has no other way to ask whether a training is going on
        return None
