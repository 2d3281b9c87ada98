"""The files of a project: a commented config and a short script."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from scipy import ndimage

from ramses_d2.config import load_config
from ramses_d2.data.catalog import coco_uri, register_datasets
from ramses_d2.data.coco import read_coco_file
from ramses_d2.data.dataset_manager import split_folders
from ramses_d2.data.images import read_label_map
from ramses_d2.data.preview import assignment_of, mapped_image, mapped_items, suggest_assignment
from ramses_d2.data.splits import subset_names
from ramses_d2.errors import RamsesError
from ramses_d2.files import read_json

# Images whose label images are read
_SAMPLE = 60


@dataclass(frozen=True)
class Survey:
    """Figures of a training set; lengths in px of the files.

    Attributes:
        classes: names in order.
        images, particles: how many.
        most_particles: of one image.
        long_side: of the images, 95th percentile.
        aspect: short side / long side, median.
        scale_5, scale_50, scale_95: percentiles of sqrt(box height * box width) of the particles.
        weighed: particles of known mass in images of known resolution.
        resolution: px/mm, median; NaN = unknown.
    """

    classes: list[str]
    images: int
    particles: int
    most_particles: int
    long_side: float
    aspect: float
    scale_5: float
    scale_50: float
    scale_95: float
    weighed: int
    resolution: float


def survey_data(address: str) -> Survey:
    """Look at a data set."""
    register_datasets([address])
    dataset_dicts: list[dict[str, Any]] = list(
        {dataset_dict["image_id"]: dataset_dict for dataset_dict in DatasetCatalog.get(address)}.values()
    )
    counts = [len(dataset_dict["annotations"]) for dataset_dict in dataset_dicts]
    if not sum(counts):
        raise RamsesError(f"{address}: {len(dataset_dicts)} images and no particle in them; nothing to learn from")
    sides = np.array([(dataset_dict["height"], dataset_dict["width"]) for dataset_dict in dataset_dicts], float)
    scales = particle_scales(dataset_dicts)
    known = [dataset_dict["resolution"] for dataset_dict in dataset_dicts if not math.isnan(dataset_dict["resolution"])]
    weighed = sum(
        not math.isnan(annotation["mass"])
        for dataset_dict in dataset_dicts
        if not math.isnan(dataset_dict["resolution"])
        for annotation in dataset_dict["annotations"]
    )
    return Survey(
        classes=list(MetadataCatalog.get(address).thing_classes),
        images=len(dataset_dicts),
        particles=sum(counts),
        most_particles=max(counts),
        long_side=float(np.percentile(sides.max(axis=1), 95)),
        aspect=float(np.median(sides.min(axis=1) / sides.max(axis=1))),
        scale_5=float(np.percentile(scales, 5)),
        scale_50=float(np.percentile(scales, 50)),
        scale_95=float(np.percentile(scales, 95)),
        weighed=weighed,
        resolution=float(np.median(known)) if known else math.nan,
    )


def particle_scales(dataset_dicts: list[dict[str, Any]]) -> np.ndarray:
    """sqrt(box height * box width) of the particles of evenly spread images, px."""
    filled = [dataset_dict for dataset_dict in dataset_dicts if dataset_dict["annotations"]]
    scales = []
    for dataset_dict in filled[:: max(1, math.ceil(len(filled) / _SAMPLE))]:
        for box in ndimage.find_objects(read_label_map(dataset_dict)):
            if box is not None:
                scales.append(math.sqrt((box[0].stop - box[0].start) * (box[1].stop - box[1].start)))
    if not scales:
        raise RamsesError("no particle has a pixel in the label images: check the data with tools/prepare_data.py")
    return np.array(scales)


TASKS = ("ramses", "solov2", "mask_rcnn")
# Base config by task: for small images, where one fine grid and a slim backbone do, and for large ones
_BASES = {
    "ramses": ("ramses_demo.yaml", "ramses_femto.yaml"),
    "solov2": ("ramses_demo.yaml", "ramses_femto.yaml"),
    "mask_rcnn": ("MaskRCNN/mask_rcnn_demo.yaml", "MaskRCNN/mask_rcnn_convnextv2_femto_FPN.yaml"),
}
_SLIM_UP_TO = 640
_LARGEST_SIDE = 3072
_MULTIPLE = 64


@dataclass(frozen=True)
class Plan:
    """Settings of a training, each under the name of its key.

    Attributes:
        task: of :data:`TASKS`.
        base: config that the others are changes of.
        weighs: whether the network has masses to learn from.
        short_side, long_side: of the network input, px.
        zoom: px of the network input per px of the files.
        grid_sizes, scale_ranges: of RAMSES and SOLOv2.
        mask_stride, upscale: of RAMSES and SOLOv2.
        anchors: sizes of Mask R-CNN's anchors, px of the network input, one per level.
        batch, learning_rate, steps, warmup, period: of the schedule; ``period`` of evaluations and checkpoints.
        detections: most instances of an image.
    """

    task: str
    base: Path
    weighs: bool
    short_side: int
    long_side: int
    zoom: float
    grid_sizes: list[int]
    scale_ranges: list[list[int]]
    mask_stride: int
    upscale: str
    anchors: list[list[int]]
    batch: int
    learning_rate: float
    steps: int
    warmup: int
    period: int
    detections: int

    @property
    def slim(self) -> bool:
        return self.base.name.endswith("demo.yaml")


def choose_task(survey: Survey, task: str | None) -> str:
    """The task, or the one that the data allows: masses need weighed particles and a resolution."""
    if task is None:
        return "ramses" if survey.weighed else "solov2"
    if task == "ramses" and not survey.weighed:
        raise RamsesError(
            "no particle of known mass in an image of known resolution: RAMSES has nothing to learn masses from; take "
            "--task solov2, or add masses (tools/prepare_data.py masses)"
        )
    return task


def input_size(survey: Survey) -> tuple[int, int, float]:
    """Short and long side of the network input, and px of it per px of the files.

    The small particles (5th percentile) keep 20 px and the usual ones 40, as far as the images have them; nothing is
    enlarged on purpose, and no side is above that of the published network.
    """
    zoom = min(1.0, max(20 / survey.scale_5, 40 / survey.scale_50), _LARGEST_SIDE / survey.long_side)
    long_side = min(_round_up(zoom * survey.long_side), _LARGEST_SIDE)
    short_side = min(_round_up(long_side * survey.aspect), long_side)
    return short_side, long_side, long_side / survey.long_side


def choose_plan(survey: Survey, train: str, images: int, configs: Path, task: str | None = None, seed: int = 1) -> Plan:
    """Choose settings for a data set.

    Args:
        survey: of the data.
        train: its address.
        images: how many of them are to train on.
        configs: folder of the configs that come with this project.
        task: of :data:`TASKS`; None = by the data.
        seed: of the sample of augmented images that grids are fitted to.
    """
    task = choose_task(survey, task)
    short_side, long_side, zoom = input_size(survey)
    slim = long_side <= _SLIM_UP_TO
    base = configs / _BASES[task][0 if slim else 1]
    small, usual, large = (zoom * scale for scale in (survey.scale_5, survey.scale_50, survey.scale_95))
    # Half the pixels of a mask are lost at its rim when a particle has few of them
    fine = slim and small < 24
    mask_stride, upscale = (2, "output") if fine else (4, "") if slim else (8, "")
    grids, ranges = [], []
    if task != "mask_rcnn":
        grids, ranges = _fit_grids(base, train, short_side, long_side, mask_stride, upscale, survey, seed)
    levels = 3 if slim else 5
    batch = 2 if slim else max(1, min(8, int(2 * 2048 * 3072 / (short_side * long_side))))
    # The demo's 9000 looks at its 360 images; the published network's 100 passes
    looks = min(max(25 * images, 6000), 40000) if slim else min(max(100 * images, 8000), 360000)
    steps = _round_to(looks / batch, 100)
    return Plan(
        task=task,
        base=base,
        weighs=survey.weighed > 0,
        short_side=short_side,
        long_side=long_side,
        zoom=zoom,
        grid_sizes=grids,
        scale_ranges=ranges,
        mask_stride=mask_stride,
        upscale=upscale,
        anchors=[[size] for size in _anchors(small, usual, large, levels)],
        batch=batch,
        learning_rate=0.002 if slim else 0.0001 * batch / 8,
        steps=steps,
        warmup=min(500, max(steps * 6 // 100, 1)),
        period=max(steps // 10, 1),
        detections=max(100, _round_up(1.5 * survey.most_particles, 50)),
    )


def _fit_grids(
    base: Path, train: str, short: int, long: int, stride: int, upscale: str, survey: Survey, seed: int
) -> tuple[list[int], list[list[int]]]:
    """Grid sizes and scale ranges for augmented training images, as ``prepare_data.py preview --suggest``."""
    overrides = ["INPUT.MIN_SIZE_TRAIN", (short,), "INPUT.MAX_SIZE_TRAIN", long, "MODEL.DEVICE", "cpu"]
    overrides += ["MODEL.RAMSES.MASK_STRIDE", stride, "MODEL.RAMSES.MASK_HEAD.UPSCALE", upscale]
    overrides += ["MODEL.RAMSES.NUM_CLASSES", len(survey.classes), "DATASETS.TRAIN", (train,)]
    cfg = load_config(str(base), overrides)
    images = [mapped_image(item) for item in mapped_items(cfg, [train], 60, seed)]
    try:
        fitted = suggest_assignment(images, assignment_of(cfg))
    except ValueError as error:
        raise RamsesError(f"{train}: {error}") from error
    return list(fitted.grid_sizes), [[int(low), int(high)] for low, high in fitted.scale_ranges]


def _anchors(small: float, usual: float, large: float, levels: int) -> list[int]:
    """Sizes from the small to the large particles in even steps of their logarithm, the usual one among them."""
    if levels == 3:
        sizes = [small, usual, large]
    else:
        low, high = math.log(small), math.log(max(large, 2 * small))
        sizes = [math.exp(low + (high - low) * index / (levels - 1)) for index in range(levels)]
    rounded = [max(4, round(size)) for size in sizes]
    return [max(size, rounded[0] + index) for index, size in enumerate(rounded)]


def _round_up(value: float, multiple: int = _MULTIPLE) -> int:
    return max(multiple, math.ceil(value / multiple) * multiple)


def _round_to(value: float, multiple: int) -> int:
    return max(multiple, round(value / multiple) * multiple)


TRAIN, VALID, TEST = "train", "valid", "test"
_FILES = {TRAIN: ("train.json",), VALID: ("valid.json", "val.json"), TEST: ("test.json",)}
_LABELS = "label.txt"


@dataclass(frozen=True)
class ProjectData:
    """Addresses of the data sets of a project.

    Attributes:
        train, valid, test: addresses, see :mod:`ramses_d2.data.dataset_uri`; ``test`` "" = none.
        sample: address that exists already and looks like the training set: that, or all that is divided.
        files: to be written into the project's folder, name -> content for JSON.
        split_folder: RAMSES folder whose split file is to be written into the project's folder; None = not needed.
        share: of the images for validation, where they are divided here.
    """

    train: str
    valid: str
    test: str = ""
    sample: str = ""
    files: dict[str, Any] = field(default_factory=dict)
    split_folder: Path | None = None
    share: float = 0.2

    def training_images(self, images: int) -> int:
        """Of the images of :attr:`sample`, those to train on."""
        divided = self.split_folder is not None or bool(self.files)
        return max(round((1 - self.share) * images), 1) if divided else images

    def write(self, folder: Path, seed: int = 0) -> list[str]:
        """Write what the addresses need; returns the names of the files."""
        for name, content in self.files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        if self.split_folder is None:
            return list(self.files)
        split_folders([self.split_folder], folder / "split.json", valid=self.share, seed=seed)
        return [*self.files, "split.json"]


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
    """Find out what ``data`` is.

    Args:
        data: a RAMSES folder, a folder with train.json, valid.json and maybe test.json and label.txt, a split file, a
            COCO file, or an address (``ramses://...``, ``coco://...``).
        folder: of the project, where split files will be.
        valid, test: COCO files or addresses of these sets; else ``data`` is divided, or has them.
        images: folder of the images of COCO files; default: beside the file, or images/ there.
        labels: label.txt with the class order of COCO files.
        share: of the images that are for validation, where they are divided here.
        seed: same seed, same division.
    """
    if not 0 < share < 1:
        raise RamsesError(f"--valid-share {share:g}: give a number between 0 and 1, such as 0.2")
    coco = _CocoAddress(images, labels)
    if "://" in data:
        sets = {TRAIN: data, VALID: valid or _sibling(data), TEST: test}
        if not sets[VALID]:
            raise RamsesError(f"{data}: name the address of the validation set with --valid")
        return ProjectData(data, coco.of(sets[VALID]), coco.of(sets[TEST]), data)
    path = Path(data)
    if not path.exists():
        raise RamsesError(f"{data}: no such folder, file or address")
    if path.is_dir():
        if (path / "annotations.csv").is_file():
            whole = f"ramses://{path.resolve()}"
            if valid:
                return ProjectData(whole, coco.of(valid), coco.of(test), whole)
            split = f"ramses://{(folder / 'split.json').resolve()}"
            return ProjectData(f"{split}#{TRAIN}", f"{split}#{VALID}", coco.of(test), whole, {}, path, share)
        found = {name: _first(path, files) for name, files in _FILES.items()}
        if found[TRAIN]:
            path, valid, test = found[TRAIN], valid or str(found[VALID] or ""), test or str(found[TEST] or "")
        else:
            candidates = sorted(p for p in path.glob("*.json") if _is_coco(p))
            if len(candidates) != 1:
                raise RamsesError(
                    f"{data}: neither a RAMSES folder (annotations.csv, labels/) nor one with train.json; of COCO "
                    f"files it has {len(candidates)}: name one"
                )
            path = candidates[0]
        if not labels and (path.parent / _LABELS).is_file():
            coco = _CocoAddress(images, str(path.parent / _LABELS))
    content = read_json(path)
    if not _is_coco_content(content):
        names = subset_names(path)
        if not {TRAIN, VALID} <= set(names):
            raise RamsesError(f"{path}: a split file needs the subsets train and valid, it has {', '.join(names)}")
        address = f"ramses://{path.resolve()}"
        final = f"{address}#{TEST}" if TEST in names else coco.of(test)
        return ProjectData(f"{address}#{TRAIN}", f"{address}#{VALID}", final, f"{address}#{TRAIN}")
    whole = coco.of(str(path))
    if valid:
        return ProjectData(whole, coco.of(valid), coco.of(test), whole)
    read_coco_file(path, labels or None)  # every entry has its ids, or one line says which has not
    parts = divide_coco(content, share, seed)
    image_files = coco.images_of(path)
    files = {f"{name}.json": part for name, part in zip((TRAIN, VALID), parts, strict=True)}
    addresses = [coco.of(str(folder / name), image_files) for name in files]
    return ProjectData(*addresses, coco.of(test), whole, files, share=share)


@dataclass(frozen=True)
class _CocoAddress:
    """How COCO files become addresses."""

    images: str
    labels: str

    def images_of(self, json_path: Path) -> Path:
        if self.images:
            return Path(self.images).resolve()
        beside = json_path.parent / "images"
        names = [image.get("file_name", "") for image in read_json(json_path).get("images", [])[:1]]
        return (beside if names and (beside / str(names[0])).is_file() else json_path.parent).resolve()

    def of(self, source: str, images: Path | None = None) -> str:
        """Address of a COCO file; what is an address already, or nothing, stays."""
        if not source or "://" in source:
            return source
        path = Path(source)
        images = images or self.images_of(path)
        return coco_uri(path.resolve(), images.resolve(), Path(self.labels).resolve() if self.labels else None)


def divide_coco(content: dict[str, Any], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide the images of a COCO data set at random; categories and what else it has stay in both."""
    count = len(content["images"])
    if count < 2:
        raise RamsesError(f"{count} image cannot be divided into training and validation: name both sets")
    chosen = np.random.default_rng(seed).permutation(count)[: min(max(round(share * count), 1), count - 1)]
    is_valid = np.isin(np.arange(count), chosen)
    parts = []
    for wanted in (False, True):
        images = [image for image, side in zip(content["images"], is_valid, strict=True) if side == wanted]
        ids = {image["id"] for image in images}
        annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
        parts.append({**content, "images": images, "annotations": annotations})
    return parts[0], parts[1]


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_coco(path: Path) -> bool:
    try:
        return _is_coco_content(read_json(path))
    except RamsesError:
        return False


def _is_coco_content(content: Any) -> bool:
    return isinstance(content, dict) and all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    )


def _sibling(address: str) -> str:
    """The validation subset of the split file whose training subset is named."""
    head, _, subset = address.rpartition("#")
    return f"{head}#{VALID}" if subset == TRAIN else ""


CONFIG, SCRIPT = "config.yaml", "train.py"
_NETWORKS = {
    "ramses": "RAMSES: outlines, classes and masses",
    "solov2": "plain SOLOv2: outlines and classes",
    "mask_rcnn": "Mask R-CNN, a baseline: outlines and classes",
}
# By whether the network is slim
_SIZES = {
    True: "A slim network for small images (that of the demo), which trains on two processor cores.",
    False: "A network for large images, for a GPU.",
}


def write_project(folder: Path, data: ProjectData, survey: Survey, plan: Plan, seed: int = 0) -> list[str]:
    """Write a project into an empty folder; returns the names of its files."""
    names = data.write(folder, seed)
    (folder / CONFIG).write_text(config_text(folder, data, survey, plan), encoding="utf-8")
    (folder / SCRIPT).write_text(script_text(folder, plan), encoding="utf-8")
    return [CONFIG, SCRIPT, *names]


def config_text(folder: Path, data: ProjectData, survey: Survey, plan: Plan) -> str:
    """The commented YAML."""
    parts = [_head(survey, plan), f"_BASE_: {_quoted(_base(folder, plan.base))}", _model(survey, plan), _input(plan)]
    parts += [
        _datasets(data),
        _solver(data, survey, plan),
        _test(plan),
        f"OUTPUT_DIR: {_quoted(str((folder / 'output').resolve()))}",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _base(folder: Path, base: Path) -> str:
    """Relative where project and configs lie in one folder, so that both can be moved together."""
    root = base.resolve().parents[1]
    target = folder.resolve()
    return os.path.relpath(base.resolve(), target) if root in target.parents else str(base.resolve())


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip().removesuffix("\n...")


def _quoted(value: str | list[str]) -> str:
    """Text in double quotes, on one line, in which ``: ``, ``"`` and ``#`` of a path mean nothing to YAML."""
    dumped = yaml.safe_dump(value, default_style='"', default_flow_style=True, width=math.inf, allow_unicode=True)
    return dumped.strip()


def _head(survey: Survey, plan: Plan) -> str:
    known = "unknown" if math.isnan(survey.resolution) else f"{survey.resolution:.3g} px/mm"
    return (
        f"# {_NETWORKS[plan.task]}.\n"
        f"# Made for {survey.images} images with {survey.particles} particles of {len(survey.classes)} classes "
        f"(up to {survey.most_particles} in one image);\n"
        f"# size of the particles, sqrt(box height * width): {survey.scale_5:.0f} / {survey.scale_50:.0f} / "
        f"{survey.scale_95:.0f} px (5 / 50 / 95 %);\n"
        f"# resolution {known}; {survey.weighed} particles weighed.\n"
        f"# {_SIZES[plan.slim]}\n"
        f"# What is not named here is in the file under _BASE_; every key is explained in docs/configuration.md.\n"
        f"# Paths are absolute where they have to be: change them when the project moves to another computer."
    )


def _model(survey: Survey, plan: Plan) -> str:
    lines = ["MODEL:"]
    if not plan.slim:
        lines += [
            "  CONVNEXTV2:",
            "    # Far better than a random start (not for commercial use); then LR_FACTOR.BACKBONE 0.1",
            '    WEIGHTS: ""  # "timm://convnextv2_femto.fcmae_ft_in1k", or an official file',
        ]
    if plan.task == "mask_rcnn":
        lines += [
            "  ANCHOR_GENERATOR:",
            f"    SIZES: {_flow(plan.anchors)}  # px of the network input, by the sizes of the particles",
            "  RPN:",
            f"    POST_NMS_TOPK_TRAIN: {2 * plan.detections}",
            f"    POST_NMS_TOPK_TEST: {2 * plan.detections}",
        ]
    lines += [
        "  RAMSES:",
        f"    NUM_CLASSES: {len(survey.classes)}",
        f"    CLASS_NAMES: {_flow(survey.classes)}",
    ]
    if plan.task != "mask_rcnn":
        lines += [
            "    # Cells along the long side, and particle sizes (px of the network input) of each level",
            f"    GRID_SIZES: {_flow(plan.grid_sizes)}",
            f"    SCALE_RANGES: {_flow(plan.scale_ranges)}",
            f"    MASK_STRIDE: {plan.mask_stride}  # px of the network input per px of a mask",
            "    MASK_HEAD:",
            f'      UPSCALE: "{plan.upscale}"  # "output" halves the stride of the masks',
            "    LOSS:",
            f"      MAX_POS_PER_IMAGE: {max(64, 2 * survey.most_particles)}",
        ]
    if plan.task != "ramses":
        lines += [
            "    MASS:",
            "      ENABLED: False  # no mass branch",
            f"      DENSITY: {plan.weighs}  # grams by the best areal density of each class, where masses are known",
        ]
    lines += ["    TEST:"]
    if plan.task != "mask_rcnn":
        lines += [f"      PRE_NMS_TOPK: {max(250, 2 * plan.detections)}"]
    lines += ["      REPORT_THRESH: 0.3  # from this score on an instance counts; precision_recall.csv helps to choose"]
    return "\n".join(lines)


def _input(plan: Plan) -> str:
    fitted = "anchor SIZES" if plan.task == "mask_rcnn" else "GRID_SIZES"
    return (
        "INPUT:\n"
        f"  # Short and long side of the network input, multiples of 64: {plan.zoom:.3g} px per px of the files.\n"
        f"  # More px give better outlines and masses, for more time and memory; {fitted} then need a look\n"
        f"  MIN_SIZE_TRAIN: ({plan.short_side},)\n"
        f"  MAX_SIZE_TRAIN: {plan.long_side}\n"
        f"  MIN_SIZE_TEST: {plan.short_side}\n"
        f"  MAX_SIZE_TEST: {plan.long_side}\n"
        "  AUG:\n"
        "    FLIP: True  # False if your lamp stands still: shading tells thickness\n"
        "    ROTATION: 10.0\n"
        "    SCALE: (0.8, 1.25)"
    )


def _datasets(data: ProjectData) -> str:
    lines = [
        "DATASETS:",
        f"  TRAIN: {_quoted([data.train])}",
        f"  TEST: {_quoted([data.valid])}  # evaluated every TEST.EVAL_PERIOD steps",
    ]
    if data.test:
        lines.append(f"  FINAL_TEST: {_quoted([data.test])}  # once, at the end, with the best weights")
    return "\n".join(lines)


def _solver(data: ProjectData, survey: Survey, plan: Plan) -> str:
    epochs = plan.steps * plan.batch / max(data.training_images(survey.images), 1)
    return (
        "SOLVER:\n"
        f"  IMS_PER_BATCH: {plan.batch}  # what memory holds; scale BASE_LR with it\n"
        f"  BASE_LR: {plan.learning_rate:g}\n"
        f"  MAX_ITER: {plan.steps}  # about {epochs:.0f} passes over the training images; or MAX_EPOCHS\n"
        f"  WARMUP_ITERS: {plan.warmup}\n"
        f"  CHECKPOINT_PERIOD: {plan.period}\n"
        "  EARLY_STOPPING:\n"
        "    PATIENCE: 0  # such as 4: stop when 4 evaluations bring nothing better"
    )


def _test(plan: Plan) -> str:
    return (
        "TEST:\n"
        f"  EVAL_PERIOD: {plan.period}\n"
        f"  DETECTIONS_PER_IMAGE: {plan.detections}  # more than your fullest image holds"
    )


def script_text(folder: Path, plan: Plan) -> str:
    """The script for those who prefer Python; the same as tools/train_net.py and tools/predict.py."""
    grams = ', instances.pred_masses.sum().item(), "g"' if plan.task == "ramses" else ""
    return f'''"""Train with {CONFIG}, then look at one image: python {SCRIPT} [--resume] [KEY VALUE ...]

Evaluation alone, and several processes, are the business of tools/train_net.py.
"""

import sys

import cv2
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from ramses_d2.engine import RamsesPredictor, RamsesTrainer, load_config, setup
from ramses_d2.errors import RamsesError, exit_on_error


def main():
    args = default_argument_parser().parse_args(["--config-file", {str((folder / CONFIG).resolve())!r}, *sys.argv[1:]])
    if args.eval_only or args.num_gpus > 1 or args.num_machines > 1:
        raise RamsesError("this script trains on one process: take tools/train_net.py for that")
    cfg = setup(args)
    trainer = RamsesTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()  # weights, curves and figures are in OUTPUT_DIR

    image = DatasetCatalog.get(cfg.DATASETS.TEST[0])[0]
    cfg = load_config(f"{{cfg.OUTPUT_DIR}}/config.yaml", ["MODEL.WEIGHTS", f"{{cfg.OUTPUT_DIR}}/model_final.pth"])
    found = RamsesPredictor(cfg)(cv2.imread(image["file_name"]), resolution=picture["resolution"])
    instances = found["instances"][found["instances"].scores >= cfg.MODEL.RAMSES.TEST.REPORT_THRESH]
    print(image["file_name"], len(instances), "particles"{grams})


if __name__ == "__main__":
    with exit_on_error():
        main()
'''
