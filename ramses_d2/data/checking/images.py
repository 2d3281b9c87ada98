"""Checks of the files of every image: there, readable, of one size, upright, 16 bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from ramses_d2.data.checking.contents import FolderContents
from ramses_d2.data.checking.findings import Finding, Kind, counted, finding
from ramses_d2.data.checking.pixels import Facts, ImageFacts, LabelFacts


def check_images(contents: FolderContents, facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """Findings about the files of every image of a folder.

    Args:
        contents: the folder.
        facts: base name -> what its pixels say.
    """
    first_rows = contents.rows.drop_duplicates("baseimg")["baseimg"]
    first_rows = dict(zip(first_rows, first_rows.index.tolist(), strict=True))
    for base in contents.base_names:
        image, label = facts[base]
        yield from _check_presence(contents, base, first_rows.get(base))
        yield from _check_image(contents, base, image)
        yield from _check_label(contents, base, label)
        yield from _check_sizes(contents, base, image, label)
    yield from _check_csv_sizes(contents, facts)


def lies_alike(image: ImageFacts | None, label: LabelFacts | None) -> bool:
    """Whether nothing is known to speak against a label image lying on its image."""
    both = image is not None and label is not None and image.error is None and label.error is None
    return not both or image.size == label.size


def _check_presence(contents: FolderContents, base: str, row: int | None) -> Iterator[Finding]:
    folder, label_file = contents.folder, f"labels/{base}.png"
    has_image, has_label = base in contents.images, base in contents.labels
    if row is not None and not has_image:
        also = "" if has_label else f", and neither is {label_file}"
        message = f"no such image{also}; add it, correct baseimg or remove its rows"
        yield finding(Kind.IMAGE_MISSING, folder, f"images/{base}.*", message, row=row, image=base)
    elif row is not None and not has_label:
        message = "no such label image; add it or remove the image's rows"
        yield finding(Kind.LABEL_IMAGE_MISSING, folder, label_file, message, row=row, image=base)
    elif contents.scan is None or row is not None or base in contents.unusable:
        return  # whether it has rows is not known, or it has everything
    elif not has_image:
        yield finding(Kind.ORPHAN_LABEL_IMAGE, folder, label_file, "has neither image nor rows", image=base)
    elif not has_label:
        message = "has neither rows nor label image and is skipped; an empty image needs a label image of zeros"
        yield finding(Kind.NOT_ANNOTATED, folder, image_file(contents, base), message, image=base)


def _check_image(contents: FolderContents, base: str, image: ImageFacts | None) -> Iterator[Finding]:
    if image is not None and image.error is not None:
        yield finding(Kind.IMAGE_UNREADABLE, contents.folder, image_file(contents, base), image.error, image=base)


def _check_label(contents: FolderContents, base: str, label: LabelFacts | None) -> Iterator[Finding]:
    if label is None:
        return
    where = {"folder": contents.folder, "file": f"labels/{base}.png", "picture": base}
    if label.error is not None:
        yield finding(Kind.LABEL_IMAGE_UNREADABLE, message=label.error, **where)
    elif label.particles is None:
        message = f"its colours (mode {label.mode}) are no labels; write one value per particle as 16-bit grey PNG"
        yield finding(Kind.LABEL_COLOURED, message=message, **where)
    elif label.mode == "L":
        message = "has 8 bits, too few for more than 255 particles; save it as 16-bit grey PNG"
        yield finding(Kind.NOT_UINT16, message=message, severity="warning", **where)
    elif not label.is_uint16:
        message = f"has mode {label.mode}; save it as 16-bit grey PNG"
        yield finding(Kind.NOT_UINT16, message=message, **where)


def _check_sizes(
    contents: FolderContents, base: str, image: ImageFacts | None, label: LabelFacts | None
) -> Iterator[Finding]:
    if image is None or image.error is not None:
        return
    file, folder = image_file(contents, base), contents.folder
    if is_turned_away(image, label):
        message = (
            f"its EXIF tag ({image.orientation}) turns the image to {_px(image.size)}, but the label image lies as "
            f"the pixels are stored, {_px(label.size)}; turn the label image or save the image upright"
        )
        yield finding(Kind.LABEL_NOT_UPRIGHT, folder, f"labels/{base}.png", message, image=base)
    elif not lies_alike(image, label):
        message = f"is {_px(label.size)}, the image {file} {_px(image.size)}; replace one of them"
        yield finding(Kind.SIZE_DIFFERS, folder, f"labels/{base}.png", message, image=base)
    elif image.orientation != 1:
        sizes_tell = image.size != image.stored_size
        message = (
            f"its EXIF tag ({image.orientation}) turns or flips the stored pixels; RAMSES applies it: the label image "
            f"must lie as a viewer shows the image{'' if sizes_tell else ', and sizes cannot tell here: have a look'}"
        )
        yield finding(Kind.EXIF_ROTATED, folder, file, message, image=base)


def is_turned_away(image: ImageFacts | None, label: LabelFacts | None) -> bool:
    """Whether a label image has the size of its image before, and not after, the EXIF tag turns it."""
    return not lies_alike(image, label) and label.size == image.stored_size


def image_size(image: ImageFacts | None, label: LabelFacts | None) -> tuple[int, int] | None:
    """(H, W) of an upright image, else of its label image; None if neither can be read, or they differ."""
    if not lies_alike(image, label) and not is_turned_away(image, label):
        return None
    return next((each.size for each in (image, label) if each is not None and each.error is None), None)


def _check_csv_sizes(contents: FolderContents, facts: Mapping[str, Facts]) -> Iterator[Finding]:
    """One finding per image, with the first row that is wrong; a label image not turned is the cause, not the CSV."""
    rows = contents.rows
    if not {"height", "width"} <= set(rows.columns):
        return
    sizes = {base: image_size(*pair) for base, pair in facts.items() if not is_turned_away(*pair)}
    wrong = pd.Series(False, index=rows.index)
    for axis, name in enumerate(("height", "width")):
        true = rows["baseimg"].map({base: size[axis] for base, size in sizes.items() if size is not None})
        wrong |= rows[name].notna() & true.notna() & (rows[name] != true)
    wrong = rows[wrong]
    counts = wrong["baseimg"].value_counts()
    for row, (base, height, width) in wrong.drop_duplicates("baseimg")[["baseimg", "height", "width"]].T.items():
        message = (
            f"height x width is {height:g} x {width:g} (in {counted(counts[base], 'row')}), "
            f"the image is {_px(sizes[base])}"
        )
        yield finding(Kind.CSV_SIZE_WRONG, contents.folder, "annotations.csv", message, row=int(row), image=base)


def image_file(contents: FolderContents, base: str) -> str:
    """The image inside its folder."""
    return f"images/{contents.images[base].name}"


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px (height x width)"
