"""A project for somebody's data: recognise the data, measure them, choose settings, write a config and a script."""

from __future__ import annotations

import json
import math
import os
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy import ndimage

from ramses_d2.config import load_config
from ramses_d2.data.catalog import coco_uri, register_datasets
from ramses_d2.data.coco import read_coco_file
from ramses_d2.data.dataset_manager import split_folders
from ramses_d2.data.images import read_label_map
from ramses_d2.data.preview import assignment_of, mapped_image, mapped_items, round_up, suggest_assignment
from ramses_d2.data.splits import subset_names
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json

_TEMPLATES = Environment(
    loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
)
_FLOW = {"default_flow_style": True, "width": math.inf, "allow_unicode": True}  # YAML on one line
_TEMPLATES.filters |= {"repr": repr, "flow": lambda value, **style: yaml.safe_dump(value, **_FLOW, **style).strip()}
TASKS = ("ramses", "solov2", "mask_rcnn")
_SAMPLE = 60  # images that are looked at
_SLIM_UP_TO = 640  # px of the network input: one fine grid and a slim backbone do
_LARGEST_SIDE = 3072  # px, of the published network
_MULTIPLE = 64  # px that the sides of the network input are multiples of


@dataclass(frozen=True)
class ProjectData:
    """URIs of the data sets of a project, and what has to be written for them."""

    train: str
    valid: str
    test: str  # "" = none
    sample: str  # exists already and looks like the training set: that, or all that is divided
    files: dict[str, Any] = field(default_factory=dict)  # contents of JSON files in the project's folder
    split_folder: Path | None = None  # RAMSES folder to be divided by a split file in the project's folder
    share: float = 0.2  # of the images, for validation where they are divided here

    def training_images(self, images: int) -> int:
        """Of the images of ``sample``, those to train on."""
        divided = self.split_folder is not None or bool(self.files)
        return max(round((1 - self.share) * images), 1) if divided else images

    def write(self, folder: Path, seed: int = 0) -> list[str]:
        """Write what the URIs need; returns the names of the files."""
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        if self.split_folder is None:
            return list(self.files)
        split_folders([self.split_folder], folder / "split.json", valid=self.share, seed=seed)
        return ["split.json"]


def find_data(
    data: str,
    folder: Path,
    *,
    valid: str = "",
    test: str = "",
    images: str = "",
    labels: str = "",
    share: float = 0.2,
    seed: int = 0,
) -> ProjectData:
    """Recognise ``data``: a RAMSES folder, a split file, a COCO file, a folder of COCO files, or a URI.

    What is not divided into training and validation sets yet is to be divided by files in ``folder``. ``images`` and
    ``labels`` are of COCO files, see :func:`_uri`.
    """
    if not 0 < share < 1:
        raise RamsesError(f"--valid-share {share:g}: give a number between 0 and 1, such as 0.2")
    to_uri = partial(_uri, images=images, labels=labels)
    if "://" in data:
        head, _, subset = data.rpartition("#")
        valid = valid or (f"{head}#valid" if subset == "train" else "")
        if not valid:
            raise RamsesError(f"{data}: name the URI of the validation set with --valid")
        return ProjectData(data, to_uri(valid), to_uri(test), data)
    path = Path(data)
    if not path.exists():
        raise RamsesError(f"{data}: no such folder, file or URI")
    if (path / "annotations.csv").is_file():
        whole = f"ramses://{path.resolve()}"
        if valid:
            return ProjectData(whole, to_uri(valid), to_uri(test), whole)
        split = f"ramses://{(folder / 'split.json').resolve()}"
        return ProjectData(f"{split}#train", f"{split}#valid", to_uri(test), whole, split_folder=path, share=share)
    if path.is_dir():
        files = _coco_files(path)
        valid, test = valid or files.get("valid") or files.get("val", ""), test or files.get("test", "")
        if not labels and (path / "label.txt").is_file():
            labels = str(path / "label.txt")
            to_uri = partial(to_uri, labels=labels)
        path = Path(files["train"])
    content = _coco_content(path)
    if content is None:
        names = subset_names(path)
        if not {"train", "valid"} <= set(names):
            raise RamsesError(f"{path}: a split file needs the subsets train and valid, it has {', '.join(names)}")
        split = f"ramses://{path.resolve()}"
        test = f"{split}#test" if "test" in names else to_uri(test)
        return ProjectData(f"{split}#train", f"{split}#valid", test, f"{split}#train")
    whole = to_uri(str(path))
    if valid:
        return ProjectData(whole, to_uri(valid), to_uri(test), whole)
    read_coco_file(path, labels or None)  # every entry has its ids, or one line says which has not
    parts = dict(zip(("train.json", "valid.json"), divide_coco(content, share, seed), strict=True))
    image_folder = str(_image_folder(path, images))
    train, valid = (_uri(str(folder / name), image_folder, labels) for name in parts)
    return ProjectData(train, valid, to_uri(test), whole, parts, share=share)


def _uri(source: str, images: str, labels: str) -> str:
    """URI of a COCO file; what is a URI already, or "", stays. ``labels``: label.txt with the class order, or ""."""
    if not source or "://" in source:
        return source
    path = Path(source).resolve()
    return coco_uri(path, _image_folder(path, images), Path(labels).resolve() if labels else None)


def _image_folder(path: Path, images: str) -> Path:
    """``images``, else images/ beside a COCO file if its first image is there, else the file's folder."""
    if images:
        return Path(images).resolve()
    content, beside = _coco_content(path), path.parent / "images"
    first = [image.get("file_name", "") for image in content["images"][:1]] if content else []
    return (beside if first and (beside / str(first[0])).is_file() else path.parent).resolve()


def _coco_content(path: Path) -> dict[str, Any] | None:
    """The content of a COCO file; None for other JSON."""
    content = read_json(path)
    keys = ("images", "annotations", "categories")
    is_coco = isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)
    return content if is_coco else None


def _coco_files(folder: Path) -> dict[str, str]:
    """The COCO files of a folder by subset; its only one is "train"."""
    paths = {name: folder / f"{name}.json" for name in ("train", "valid", "val", "test")}
    found = {name: str(path) for name, path in paths.items() if path.is_file()}
    if "train" not in found:
        others = []
        for path in folder.glob("*.json"):
            with suppress(RamsesError):  # no JSON
                others += [str(path)] if _coco_content(path) else []
        if len(others) != 1:
            raise RamsesError(
                f"{folder}: no annotations.csv, no train.json, and {len(others)} COCO files: name one file"
            )
        return {"train": others[0]}
    return found


def divide_coco(content: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the images of a COCO data set at random; categories and what else it has stay in both."""
    count = len(content["images"])
    if count < 2:
        raise RamsesError(f"{count} image cannot be divided into training and validation: name both sets")
    chosen = np.random.default_rng(seed).permutation(count)[: min(max(round(share * count), 1), count - 1)]
    parts = []
    for side in (set(range(count)) - set(chosen.tolist()), set(chosen.tolist())):
        images = [content["images"][index] for index in sorted(side)]
        ids = {image["id"] for image in images}
        annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        parts.append({**content, "images": images, "annotations": annotations})
    return parts[0], parts[1]


@dataclass(frozen=True)
class Survey:
    """What a training set holds."""

    classes: list[str]
    images: int
    particles: int
    most_particles: int  # of one image
    long_side: float  # of the images, px, 95th percentile
    aspect: float  # short side / long side, median
    scales: tuple[float, float, float]  # sqrt(box height * width) of the particles, px, 5th, 50th and 95th percentile
    weighed: int  # particles of known mass in images of known resolution
    resolution: float  # px/mm, median; NaN = unknown


def survey_data(uri: str) -> Survey:
    """Look at a data set."""
    register_datasets([uri])
    # An image that a split file repeats counts once
    dataset_dicts = list({each["image_id"]: each for each in DatasetCatalog.get(uri)}.values())
    counts = [len(each["annotations"]) for each in dataset_dicts]
    if not sum(counts):
        raise RamsesError(f"{uri}: {len(dataset_dicts)} images and no particle in them; nothing to learn from")
    sides = np.array([(each["height"], each["width"]) for each in dataset_dicts], float)
    known = [each for each in dataset_dicts if not math.isnan(each["resolution"])]
    filled = [each for each in dataset_dicts if each["annotations"]]
    sample = filled[:: max(1, math.ceil(len(filled) / _SAMPLE))]
    boxes = [box for each in sample for box in ndimage.find_objects(read_label_map(each)) if box is not None]
    if not boxes:
        raise RamsesError(f"{uri}: no particle has a pixel in the label images; check them with tools/prepare_data.py")
    scales = np.sqrt([(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in boxes])
    small, usual, large = np.percentile(scales, (5, 50, 95)).tolist()
    return Survey(
        classes=list(MetadataCatalog.get(uri).thing_classes),
        images=len(dataset_dicts),
        particles=sum(counts),
        most_particles=max(counts),
        long_side=float(np.percentile(sides.max(axis=1), 95)),
        aspect=float(np.median(sides.min(axis=1) / sides.max(axis=1))),
        scales=(small, usual, large),
        weighed=sum(not math.isnan(annotation["mass"]) for each in known for annotation in each["annotations"]),
        resolution=float(np.median([each["resolution"] for each in known])) if known else math.nan,
    )


@dataclass(frozen=True)
class Plan:
    """Settings of a training; sizes in px of the network input."""

    task: str  # of TASKS
    slim: bool  # a network for small images
    base: Path  # config that the others are changes of
    short_side: int
    long_side: int
    mask_stride: int
    upscale: str
    grid_sizes: list[int]
    scale_ranges: list[list[int]]
    anchors: list[list[int]]  # of Mask R-CNN, one per level
    batch: int
    learning_rate: float
    steps: int
    warmup: int
    period: int  # of evaluations and checkpoints
    detections: int  # most instances of an image


def input_size(survey: Survey) -> tuple[int, int]:
    """Short and long side of the network input.

    The small particles (5th percentile) keep 20 px and the usual ones 40, as far as the images have them; nothing is
    enlarged on purpose, and no side is above that of the published network.
    """
    small, usual, _ = survey.scales
    zoom = min(1.0, max(20 / small, 40 / usual), _LARGEST_SIDE / survey.long_side)
    long_side = min(round_up(zoom * survey.long_side, _MULTIPLE), _LARGEST_SIDE)
    return min(round_up(long_side * survey.aspect, _MULTIPLE), long_side), long_side


def choose_plan(survey: Survey, data: ProjectData, configs: Path, task: str | None = None) -> Plan:
    """Choose settings for a data set; ``configs`` is the folder of the configs that come with the project."""
    if task == "ramses" and not survey.weighed:
        raise RamsesError("no particle of known mass in an image of known resolution: add masses, or --task solov2")
    task = task or ("ramses" if survey.weighed else "solov2")
    short_side, long_side = input_size(survey)
    slim = long_side <= _SLIM_UP_TO
    family, size = ("MaskRCNN/mask_rcnn", "convnextv2_femto_FPN") if task == "mask_rcnn" else ("ramses", "femto")
    base = configs / f"{family}_{'demo' if slim else size}.yaml"
    zoom = long_side / survey.long_side
    small, usual, large = (zoom * scale for scale in survey.scales)
    # Half the pixels of a mask are lost at its rim when a particle has few of them
    mask_stride, upscale = (2, "output") if slim and small < 24 else (4, "") if slim else (8, "")
    grid_sizes, scale_ranges = [], []
    if task != "mask_rcnn":
        # Fitted to augmented training images, as prepare_data.py preview --suggest does
        overrides = ["INPUT.MIN_SIZE_TRAIN", (short_side,), "INPUT.MAX_SIZE_TRAIN", long_side, "MODEL.DEVICE", "cpu"]
        overrides += ["MODEL.RAMSES.MASK_STRIDE", mask_stride, "MODEL.RAMSES.MASK_HEAD.UPSCALE", upscale]
        overrides += ["MODEL.RAMSES.NUM_CLASSES", len(survey.classes), "DATASETS.TRAIN", (data.sample,)]
        cfg = load_config(str(base), overrides)
        images = [mapped_image(item) for item in mapped_items(cfg, [data.sample], _SAMPLE, seed=1)]
        fitted = suggest_assignment(images, assignment_of(cfg))
        grid_sizes, scale_ranges = list(fitted.grid_sizes), [list(map(int, pair)) for pair in fitted.scale_ranges]
    batch = 2 if slim else max(1, min(8, int(2 * 2048 * 3072 / (short_side * long_side))))
    # The demo's 9000 looks at its 360 images; the published network's 100 passes
    passes, fewest, most = (25, 6000, 40000) if slim else (100, 8000, 360000)
    looks = min(max(passes * data.training_images(survey.images), fewest), most)
    steps = round(looks / batch / 100) * 100
    return Plan(
        task,
        slim,
        base,
        short_side,
        long_side,
        mask_stride,
        upscale,
        grid_sizes,
        scale_ranges,
        anchors=[[size] for size in _anchors(small, usual, large, levels=3 if slim else 5)],
        batch=batch,
        learning_rate=0.002 if slim else 0.0001 * batch / 8,
        steps=steps,
        warmup=min(500, steps * 6 // 100),
        period=steps // 10,
        detections=max(100, round_up(1.5 * survey.most_particles, 50)),
    )


def _anchors(small: float, usual: float, large: float, levels: int) -> list[int]:
    """Sizes from the small to the large particles: of 3 levels the usual one in between, else in even log steps."""
    sizes = [small, usual, large] if levels == 3 else np.geomspace(small, max(large, 2 * small), levels).tolist()
    rounded = [max(4, round(size)) for size in sizes]
    return [max(size, rounded[0] + index) for index, size in enumerate(rounded)]


def write_project(folder: Path, data: ProjectData, survey: Survey, plan: Plan, seed: int = 0) -> list[str]:
    """Write a project into an empty folder; returns the names of its files."""
    names = data.write(folder, seed)
    target, base = folder.resolve(), plan.base.resolve()
    # Relative where project and configs lie in one folder, so that both can be moved together
    paths = {
        "base": os.path.relpath(base, target) if base.parents[1] in target.parents else str(base),
        "config": str(target / "config.yaml"),
        "output": str(target / "output"),
    }
    for name in ("config.yaml", "train.py"):
        text = _TEMPLATES.get_template(f"{name}.j2").render(data=data, survey=survey, plan=plan, **paths)
        (folder / name).write_text(text, encoding="utf-8")
    return ["config.yaml", "train.py", *names]
