"""The metadata.json of a RAMSES folder: what it says of each image, under the image's base name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ramses_d2.errors import RamsesError

from .image_names import base_name
from .json_file import read_json

METADATA_NAME = "metadata.json"


def read_metadata(folder: Path) -> dict[str, Any]:
    """The content of a folder's metadata.json; nothing where there is none.

    Raises:
        RamsesError: not JSON, or no JSON object.
    """
    path = folder / METADATA_NAME
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise RamsesError(f"{path}: not a metadata.json, which is an object with images; see datasets/README.md")
    return content


def image_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Base name -> entry of the image under ``images`` of a folder's metadata.json; nothing where there is none.

    Raises:
        RamsesError: see :func:`read_metadata`; or images is no list of objects with a file_name.
    """
    images = read_metadata(folder).get("images", [])
    if not isinstance(images, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("file_name"), str) for entry in images
    ):
        raise RamsesError(
            f"{folder / METADATA_NAME}: images must be a list of objects with file_name and res; see datasets/README.md"
        )
    return {base_name(entry["file_name"]): entry for entry in images}
