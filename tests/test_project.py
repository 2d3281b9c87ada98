"""Projects: whatever a user has is recognised, and settings follow from the data."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from detectron2.data import DatasetCatalog

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.dataset_manager import split_folders
from ramses_d2.data.preview import assignment_of, assignment_statistics, mapped_image, mapped_items
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES
from ramses_d2.project import Survey, choose_plan, divide_coco, find_data, input_size, survey_data, write_project
from tests.coco_files import write_coco
from tests.tools.command_line import ROOT

CONFIGS = ROOT / "configs"
NAMES = [f"img{index}" for index in range(5)]
SURVEY = Survey(["a", "b"], 100, 2000, 40, 1500.0, 0.75, (40.0, 80.0, 160.0), 2000, 5.0)
TinyFolder = Callable[..., Path]


def put_files(base: Path, folder: Path) -> None:
    """All that find_data knows, of the five images of a RAMSES folder: two split files, COCO files in three ways."""
    split_folders([folder], base / "two.json", valid=0.4)
    content = json.loads((base / "two.json").read_text())
    content["subsets"]["test"] = content["subsets"]["train"][2:]
    (base / "three.json").write_text(json.dumps(content))
    for name, valid in (("coco", "valid"), ("coco2", "val")):
        for part, images in (("train", NAMES[:3]), (valid, NAMES[3:4]), ("test", NAMES[4:])):
            write_coco(base / name / f"{part}.json", folder, images)
        shutil.copytree(folder / "images", base / name / "images")
    (base / "coco/label.txt").write_text("glass\nbrick\nconcrete\n")
    write_coco(base / "one/annotations.json", folder, NAMES)
    (base / "one/other.json").write_text("[]")


COCO = "{q}/coco/$.json?images={q}/coco/images&labels={q}/coco/label.txt"
COCO2, ONE = "{q}/coco2/$.json?images={q}/coco2/images", "{q}/project/$.json?images={q}/data/images"
# (arguments of find_data; the data set that is looked at; train; valid; test; images of the first, to train on, valid)
SOURCES = [
    ({"data": "{b}/data"}, "{b}/data", "{b}/project/split.json#train", "{b}/project/split.json#valid", "", (5, 3, 2)),
    ({"data": "{b}/data", "valid": "ramses://{b}/two.json#valid", "test": "ramses://third"},
     "{b}/data", "{b}/data", "{b}/two.json#valid", "third", (5, 5, 2)),
    ({"data": "{b}/two.json", "test": "ramses://third"},
     "{b}/two.json#train", "{b}/two.json#train", "{b}/two.json#valid", "third", (3, 3, 2)),
    ({"data": "{b}/three.json", "test": "ramses://third"},
     "{b}/three.json#train", "{b}/three.json#train", "{b}/three.json#valid", "{b}/three.json#test", (3, 3, 2)),
    ({"data": "ramses://{b}/two.json#train"},
     "{b}/two.json#train", "{b}/two.json#train", "{b}/two.json#valid", "", (3, 3, 2)),
    ({"data": "{b}/coco"}, *[COCO.replace("$", name) for name in ("train", "train", "valid", "test")], (3, 3, 1)),
    ({"data": "{b}/coco2"}, *[COCO2.replace("$", name) for name in ("train", "train", "val", "test")], (3, 3, 1)),
    ({"data": "{b}/coco2/train.json", "valid": "{b}/coco2/val.json"},
     *[COCO2.replace("$", name) for name in ("train", "train", "val")], "", (3, 3, 1)),
    *[({"data": "{b}/one" + file, "images": "{b}/data/images"}, "{q}/one/annotations.json?images={q}/data/images",
       ONE.replace("$", "train"), ONE.replace("$", "valid"), "", (5, 3, 2)) for file in ("", "/annotations.json")],
]  # fmt: skip


@pytest.mark.parametrize("name", ["plain", "R&D 100% #1?"])
def test_sources(tiny_folder: TinyFolder, tmp_path: Path, name: str) -> None:
    base = tmp_path / name
    folder, project = tiny_folder(f"{name}/data", sizes=[(64, 96)] * 5), base / "project"
    put_files(base, folder)
    project.mkdir()
    quoted = str(base)
    for letter in "%?&#":
        quoted = quoted.replace(letter, f"%{ord(letter):X}")
    for given, *uris, counts in SOURCES:
        data = find_data(**{k: v.format(b=base) for k, v in given.items()}, folder=project, share=0.4, seed=1)
        wanted = [uri and f"{'coco' if '?' in uri else 'ramses'}://" + uri.format(b=base, q=quoted) for uri in uris]
        assert [data.sample, data.train, data.valid, data.test] == wanted and not any(project.iterdir())
        written = data.write(project)
        assert written == sorted(path.name for path in project.iterdir())
        register_datasets([data.sample, data.train, data.valid])
        sizes = [len(DatasetCatalog.get(uri)) for uri in (data.sample, data.train, data.valid)]
        assert tuple(sizes) == counts and data.training_images(counts[0]) == counts[1]
        for file in written:
            (project / file).unlink()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"data": "data/images"}, "images.* 0 COCO files"),
        ({"data": "data/labels/img0.png"}, "img0.png"),
        ({"data": "data/metadata.json"}, "metadata.json"),
        ({"data": "data", "share": 1.0}, "--valid-share 1"),
        ({"data": "data", "share": 0.0}, "--valid-share 0"),
        ({"data": "coco://a.json"}, "--valid"),
        ({"data": "ramses://s.json#all"}, "--valid"),
        ({"data": "no_valid.json"}, "train and valid, it has train, test"),
        ({"data": "no_id.json"}, "no_id.json"),
        ({"data": "single.json"}, "1 image cannot be divided"),
    ],
)
def test_what_is_no_data(tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                         given: dict[str, Any], words: str) -> None:  # fmt: skip
    folder = tiny_folder(name="data", sizes=[(64, 96)] * 3)
    monkeypatch.chdir(tmp_path)
    content = {"format": "ramses-split", "version": 1, "folders": {"data": "data"}, "classes": ["brick"]}
    content |= {"subsets": {"train": ["data/img0"], "test": ["data/img1"]}}
    (tmp_path / "no_valid.json").write_text(json.dumps(content))
    write_coco(tmp_path / "single.json", folder, NAMES[:1])
    content = json.loads(write_coco(tmp_path / "no_id.json", folder, NAMES[:3]).read_text())
    del content["images"][0]["id"]
    (tmp_path / "no_id.json").write_text(json.dumps(content))
    with pytest.raises(RamsesError, match=words):
        find_data(folder=tmp_path, **given)


def test_each_image_of_a_divided_file_is_on_one_side(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    content = json.loads(write_coco(tmp_path / "a.json", tiny_folder(sizes=[(64, 96)] * 5), NAMES).read_text())
    for share, seed, count in ((0.01, 0, 1), (0.5, 1, 2), (0.6, 2, 3), (0.99, 2, 4)):
        parts = divide_coco(content, share, seed)
        train, valid = ({image["id"] for image in part["images"]} for part in parts)
        assert train | valid == {image["id"] for image in content["images"]} and not train & valid
        assert len(valid) == count and divide_coco(content, share, seed) == parts
        for part, side in zip(parts, (train, valid), strict=True):
            assert part["annotations"] == [a for a in content["annotations"] if a["image_id"] in side]


def test_survey(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder(sizes=[(64, 96), (96, 64), (64, 96)], count=[6, 4, 0], resolution=2.0)
    survey = survey_data(f"ramses://{folder}")
    assert (survey.classes, survey.images, survey.particles) == (["brick", "concrete", "glass"], 3, 10)
    assert (survey.most_particles, survey.long_side, survey.weighed, survey.resolution) == (6, 96, 10, 2.0)
    assert survey.aspect == pytest.approx(2 / 3) and 10 < survey.scales[0] <= survey.scales[1] <= survey.scales[2] < 40
    assert survey_data(f"ramses://{tiny_folder(name='unweighed', nan_masses=True)}").weighed == 0
    with pytest.raises(RamsesError, match="no particle in them"):
        survey_data(f"ramses://{tiny_folder(name='empty', count=0)}")


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, (576, 768)),  # the usual particle from 80 to 40 px
        ({"scales": (20.0, 80.0, 160.0)}, (1152, 1536)),  # small ones: all the pixels there are
        ({"scales": (40.0, 160.0, 200.0)}, (576, 768)),  # the small particle from 40 to 20 px
        ({"long_side": 6144.0, "scales": (10.0, 80.0, 160.0)}, (2304, 3072)),  # no more than the published network's
        ({"long_side": 6144.0, "scales": (200.0, 400.0, 500.0)}, (512, 640)),
        ({"long_side": 50.0}, (64, 64)),
    ],
)
def test_input_size(change: dict[str, Any], size: tuple[int, int]) -> None:
    assert input_size(replace(SURVEY, **change)) == size


@pytest.mark.parametrize("task", [None, "solov2", "mask_rcnn"])
@pytest.mark.parametrize("size", ["fine", "slim", "large"])
def test_the_config_builds_and_gives_each_particle_a_cell(
    tiny_folder: TinyFolder, tmp_path: Path, task: str | None, size: str
) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 4, count=6)
    project = tmp_path / "project"
    project.mkdir()
    data = find_data(str(folder), project, test="ramses://third")
    survey = survey_data(data.sample)
    large, seen = size == "large", survey
    if size != "slim":  # said to be: the images are the same, so that the test is quick
        said = (
            {"long_side": 2000.0, "scales": (20.0, 60.0, 150.0), "most_particles": 90}
            if large
            else {"scales": (9, 20, 30)}
        )
        seen = replace(survey, **said)
    plan = choose_plan(seen, data, CONFIGS, task)
    assert write_project(project, data, survey, plan) == ["config.yaml", "train.py", "split.json"]
    cfg = load_config(str(project / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    ramses, solver = cfg.MODEL.RAMSES, cfg.SOLVER
    assert ramses.NUM_CLASSES == 3 and list(ramses.CLASS_NAMES) == survey.classes
    assert ramses.MASS.ENABLED == (task is None) and cfg.OUTPUT_DIR == str(project / "output")
    assert cfg.INPUT.MIN_SIZE_TRAIN == (plan.short_side,) and cfg.INPUT.MAX_SIZE_TRAIN == plan.long_side
    assert (plan.short_side, plan.long_side) == ((1408, 2048) if large else (128, 128))
    steps = (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD, solver.BASE_LR)
    assert steps == ((4, 2000, 120, 200, 5e-5) if large else (2, 3000, 180, 300, 0.002))
    assert cfg.TEST.DETECTIONS_PER_IMAGE == (150 if large else 100) and cfg.DATASETS.FINAL_TEST == ("ramses://third",)
    if task == "mask_rcnn":
        wanted = [[20], [34], [56], [93], [154]] if large else plan.anchors
        assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == wanted and len(wanted) == len(cfg.MODEL.RPN.IN_FEATURES)
        return
    RAMSES(cfg)  # grids, levels and mask stride fit each other
    assert ramses.MASK_STRIDE == {"fine": 2, "slim": 4, "large": 8}[size]
    register_datasets([data.train])
    images = [mapped_image(item) for item in mapped_items(cfg, [data.train], 0, 5)]
    assert large or assignment_statistics(images, assignment_of(cfg)).share_with_cell == 1.0
    text = (project / "config.yaml").read_text()
    assert "4 images with 24 particles of 3 classes" in text and "2 px/mm" in text
    assert f"about {2667 if large else 2000} passes" in text and text.count("#") > 12 and yaml.safe_load(text)


@pytest.mark.parametrize("name", ["Pit: 8", 'q"x', "a #1, é 'b' \\n {c} [d] %41 &e"])
def test_folders_with_letters_that_yaml_knows(tiny_folder: TinyFolder, tmp_path: Path, name: str) -> None:
    folder = tiny_folder(name=f"{name}/data", sizes=[(64, 96)] * 2, nan_masses=True)
    project, third = tmp_path / name / "project", f"ramses://{tmp_path / name}/third"
    project.mkdir()
    data = find_data(str(folder), project, test=third, share=0.5)
    survey = survey_data(data.sample)
    configs = shutil.copytree(CONFIGS, tmp_path / name / "configs")
    plan = choose_plan(survey, data, configs)
    assert plan.task == "solov2"  # masses need weighed particles
    with pytest.raises(RamsesError, match="--task solov2"):
        choose_plan(survey, data, CONFIGS, "ramses")
    write_project(project, data, survey, plan)
    # Project and configs lie in one folder, and can be moved together
    assert yaml.safe_load((project / "config.yaml").read_text())["_BASE_"] == "../configs/ramses_demo.yaml"
    cfg = load_config(str(project / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((data.train,), (data.valid,))
    assert cfg.DATASETS.FINAL_TEST == (third,) and cfg.OUTPUT_DIR == str(project / "output")
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    nodes = ast.walk(ast.parse((project / "train.py").read_text()))
    assert str(project / "config.yaml") in [node.value for node in nodes if hasattr(node, "value")]
