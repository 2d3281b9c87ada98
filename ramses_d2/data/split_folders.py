"""From data set folders to a split file in one call: the defaults somebody wants who only names the folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ramses_d2.errors import RamsesError

from .annotations_csv import MAX_LABEL
from .dataset_manager import DatasetManager
from .manager_files import OURS
from .split_groups import BATCH, has_batches

logger = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"


def split_folders(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    valid: float = 0.2,
    folds: int | None = None,
    stratify: bool = True,
    group_by: str = AUTO,
    max_per_class: int | None = None,
    max_reuse: int = 1,
    minres: float = 0.0,
    mininst: int | None = None,
    maxinst: int = MAX_LABEL,
    exclude: Sequence[str] = (),
    mass: bool = False,
    input_shape: Sequence[int] | None = None,
    seed: int = 0,
    format: str = OURS,
    force: bool = False,
) -> tuple[DatasetManager, Path]:
    """Divide the images of RAMSES folders into training and validation sets, and write the split file.

    Args:
        folders: RAMSES folders.
        output: JSON file to write.
        valid: share of the images for validation.
        folds: make so many folds instead.
        stratify: give each class its share, too.
        group_by: see :func:`ramses_d2.data.split_groups.group_keys`; "none" = each image on its own; "auto" = by
            batch where metadata.json has batches of several images, and enough of them.
        max_per_class: see :meth:`DatasetManager.create_split`.
        max_reuse: see there.
        minres: lowest resolution, px/mm.
        mininst: fewest particles of an image; default: 0, in the original's format 1.
        maxinst: most particles of an image.
        exclude: classes whose images are not used.
        mass: only images with a particle whose mass is known.
        input_shape: (H, W); images with a particle outside of the crop to this aspect ratio are not used.
        seed: same seed, same split.
        format: "ramses-split" or "ramses2".
        force: replace an existing split file.

    Returns:
        the manager that holds the sets, and the file.

    Raises:
        RamsesError: anything missing or wrong; ``output`` exists.
    """
    if mininst is None:
        mininst = 0 if format == OURS else 1
    manager = DatasetManager.from_folders(
        folders, input_shape=input_shape, mininst=mininst, maxinst=maxinst, exclude=exclude, minres=minres, seed=seed
    )
    if unknown := set(exclude) - set(manager.classes):
        raise RamsesError(
            f"excluded class {', '.join(sorted(unknown))} is not in the annotations ({', '.join(manager.classes)})"
        )
    if group_by == AUTO:
        _group_by_batch(manager, mass, 2 if folds is None else folds)
    elif group_by != NONE:
        manager.group(group_by)
    choice = {"stratify": stratify, "max_per_class": max_per_class, "max_reuse": max_reuse, "mass": mass}
    if folds is None:
        manager.create_split(valid, **choice)
    else:
        manager.create_folds(folds, **choice)
    return manager, manager.save(output, format=format, force=force)


def _group_by_batch(manager: DatasetManager, mass: bool, sides: int) -> None:
    if not has_batches(manager.images):
        return
    manager.group(BATCH)
    if 0 < manager.images.loc[manager.candidates(mass=mass), "group"].nunique() < sides:
        logger.warning("fewer than %d batches: images of one batch will be on both sides", sides)
        manager.group(None)
