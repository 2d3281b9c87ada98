"""Images that several tests of data need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ramses_d2.data.folder import load_folder

LEVEL = 11  # grey levels from one label to the next in `numbered`


@pytest.fixture
def numbered(tiny_folder: Callable[..., Path]) -> list[dict[str, Any]]:
    """Images whose grey level is LEVEL x label, and whose class and mass are the label."""
    sizes = ((64, 128), (128, 64), (200, 300), (333, 222), (90, 90))
    dataset_dicts, _ = load_folder(tiny_folder(sizes=sizes, count=(6, 12, 20, 9, 1)))
    for dataset_dict in dataset_dicts:
        label_map = np.asarray(Image.open(dataset_dict["label_file_name"]))
        Image.fromarray(np.repeat((label_map * LEVEL)[..., None], 3, axis=2).astype(np.uint8)).save(
            dataset_dict["file_name"]
        )
        for annotation in dataset_dict["annotations"]:
            annotation |= {"category_id": annotation["label"], "mass": float(annotation["label"])}
    return dataset_dicts
