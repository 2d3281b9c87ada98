"""Damage to files, and to the reading of them as a whole. Every function says where it is to be found."""

from __future__ import annotations

import shutil

import numpy as np
from PIL import Image

from tests.data.checking.data_set import A, DataSet, Where, damage


@damage("image-missing")
def image_missing(data: DataSet) -> list[Where]:
    data.image(A).unlink()
    return [(f"images/{A}.*", data.row(A, 1), None)]


@damage("label-image-missing")
def label_image_missing(data: DataSet) -> list[Where]:
    data.label(A).unlink()
    return [(f"labels/{A}.png", data.row(A, 1), None)]


@damage("image-missing")
def image_and_label_image_missing(data: DataSet) -> list[Where]:
    data.image(A).unlink()
    data.label(A).unlink()
    return [(f"images/{A}.*", data.row(A, 1), None)]


@damage("orphan-label-image")
def orphan_label_image(data: DataSet) -> list[Where]:
    data.save_labels("stray", np.pad(np.ones((8, 9)), 7))
    return [("labels/stray.png", None, None)]


@damage("image-unreadable")
def image_truncated(data: DataSet) -> list[Where]:
    data.image(A).write_bytes(data.image(A).read_bytes()[:-900])
    return [(f"images/{A}.jpg", None, None)]


@damage("label-image-unreadable")
def label_image_truncated(data: DataSet) -> list[Where]:
    data.label(A).write_bytes(data.label(A).read_bytes()[:-100])
    return [(f"labels/{A}.png", None, None)]


@damage("label-image-unreadable")
def label_image_is_text(data: DataSet) -> list[Where]:
    data.label(A).write_text("no picture")
    return [(f"labels/{A}.png", None, None)]


@damage("same-base-name")
def two_images_of_one_name(data: DataSet) -> list[Where]:
    Image.open(data.image(A)).save(data.image(A).with_suffix(".png"))
    return [(f"images/{A}.png", None, None)]


@damage("size-differs")
def label_image_of_another_size(data: DataSet) -> list[Where]:
    data.save_labels(A, data.labels(A)[:-20, :-30])
    return [(f"labels/{A}.png", None, None)]


@damage("size-differs")
def image_of_another_size(data: DataSet) -> list[Where]:
    Image.open(data.image(A)).resize((200, 150)).save(data.image(A))
    return [(f"labels/{A}.png", None, None)]


@damage("csv-size-wrong")
def size_in_csv_wrong(data: DataSet) -> list[Where]:
    data.set(data.row(A, 3), height=4096)
    return [("annotations.csv", data.row(A, 3), None)]


@damage("exif-rotated")
def image_turned_by_exif(data: DataSet) -> list[Where]:
    image = Image.open(data.image(A)).transpose(Image.Transpose.ROTATE_90)
    image.getexif()[0x0112] = 6
    image.save(data.image(A), exif=image.getexif())
    return [(f"images/{A}.jpg", None, None)]


@damage("label-not-upright")
def label_image_not_turned_with_its_image(data: DataSet) -> list[Where]:
    image = Image.open(data.image(A))
    image.getexif()[0x0112] = 8
    image.save(data.image(A), exif=image.getexif())
    return [(f"labels/{A}.png", None, None)]


@damage("label-not-uint16")
def label_image_8_bit(data: DataSet) -> list[Where]:
    Image.fromarray(data.labels(A).astype(np.uint8)).save(data.label(A))
    return [(f"labels/{A}.png", None, None)]


@damage("label-not-uint16")
def label_image_with_three_channels(data: DataSet) -> list[Where]:
    Image.fromarray(np.repeat(data.labels(A).astype(np.uint8)[..., None], 3, axis=2)).save(data.label(A))
    return [(f"labels/{A}.png", None, None)]


@damage("label-not-uint16")
def label_image_with_palette(data: DataSet) -> list[Where]:
    image = Image.fromarray(data.labels(A).astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.save(data.label(A))
    return [(f"labels/{A}.png", None, None)]


@damage("label-coloured")
def label_image_coloured(data: DataSet) -> list[Where]:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    Image.fromarray(colours[data.labels(A)]).save(data.label(A))
    return [(f"labels/{A}.png", None, None)]


@damage("resolution-unknown")
def resolution_of_an_empty_image_unknown(data: DataSet) -> list[Where]:
    shutil.copy(data.image(A), data.image("empty"))
    Image.fromarray(255 - np.asarray(Image.open(data.image(A)))).save(data.image("empty"))
    data.save_labels("empty", np.zeros_like(data.labels(A)))
    return [("images/empty.jpg", None, None)]


@damage("in-two-subsets")
def image_in_training_and_validation(data: DataSet) -> list[Where]:
    data.add_to_split("valid", f"data/{A}")
    return [("split.json", None, None)]


@damage("copy-in-two-subsets")
def copy_in_training_and_validation(data: DataSet) -> list[Where]:
    data.copy_image(A, "a_copy")
    data.add_to_split("valid", "data/a_copy")
    return [("images/a_copy.png", None, None)]


@damage("duplicate-picture")
def copy_in_training(data: DataSet) -> list[Where]:
    data.copy_image(A, "z_copy")
    data.add_to_split("train", "data/z_copy")
    return [("images/z_copy.png", None, None)]


@damage("split-picture-missing")
def split_names_a_image_that_is_not_there(data: DataSet) -> list[Where]:
    data.add_to_split("train", "data/nowhere")
    return [("split.json", None, None)]


@damage("not-annotated")
def image_not_annotated(data: DataSet) -> list[Where]:
    data.write(data.table.query("baseimg != @A"))
    data.label(A).unlink()
    return [(f"images/{A}.jpg", None, None)]


@damage("bad-row")
def row_with_decimal_comma(data: DataSet) -> list[Where]:
    lines = (data.folder / "annotations.csv").read_text().splitlines()
    row = data.row(A, 2)
    lines[row - 1] = lines[row - 1].replace(".", ",")
    (data.folder / "annotations.csv").write_text("\n".join(lines))
    return [("annotations.csv", row, None)]


@damage("csv-unreadable")
def csv_with_semicolons(data: DataSet) -> list[Where]:
    path = data.folder / "annotations.csv"
    path.write_text(path.read_text().replace(",", ";"))
    return [("annotations.csv", None, None)]


@damage("csv-unreadable")
def csv_missing(data: DataSet) -> list[Where]:
    (data.folder / "annotations.csv").unlink()
    return [("annotations.csv", None, None)]


@damage("json-unreadable")
def metadata_broken(data: DataSet) -> list[Where]:
    (data.folder / "metadata.json").write_text('{"images": [')
    return [("metadata.json", None, None)]


@damage("json-unreadable")
def split_broken(data: DataSet) -> list[Where]:
    (data.folder / "split.json").write_text("{}")
    return [("split.json", None, None)]


@damage("json-unreadable")
def class_ids_from_0(data: DataSet) -> list[Where]:
    (data.folder / "classes.json").write_text('{"Ra": 0, "Rb": 1, "Rc": 2}')
    return [("classes.json", None, None)]
