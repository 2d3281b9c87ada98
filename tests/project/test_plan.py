"""Settings follow from the data: particles large enough, every one with a cell, steps by the number of images."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ramses_d2.config import load_config
from ramses_d2.data.catalog import register_datasets
from ramses_d2.data.preview import assignment_of, assignment_statistics, mapped_image, mapped_items
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES
from ramses_d2.project import Survey, choose_plan, find_data, input_size, survey_data, write_project
from tests.tools.command_line import ROOT

CONFIGS = ROOT / "configs"
SURVEY = Survey(["a", "b"], 100, 2000, 40, 1500.0, 0.75, (40.0, 80.0, 160.0), 2000, 5.0)


def test_survey(tiny_folder: Callable[..., Path]) -> None:
    folder = tiny_folder(sizes=[(64, 96), (96, 64), (64, 96)], count=[6, 4, 0], resolution=2.0)
    survey = survey_data(f"ramses://{folder}")
    assert (survey.classes, survey.images, survey.particles) == (["brick", "concrete", "glass"], 3, 10)
    assert (survey.most_particles, survey.long_side, survey.weighed, survey.resolution) == (6, 96, 10, 2.0)
    assert survey.aspect == pytest.approx(2 / 3) and sorted(survey.scales) == list(survey.scales)


def test_survey_without_masses_or_particles(tiny_folder: Callable[..., Path]) -> None:
    assert survey_data(f"ramses://{tiny_folder(nan_masses=True)}").weighed == 0
    with pytest.raises(RamsesError, match="no particle in them"):
        survey_data(f"ramses://{tiny_folder(name='empty', count=0)}")


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({}, (576, 768)),  # the usual particle from 80 to 40 px
        ({"scales": (10.0, 20.0, 160.0)}, (1152, 1536)),  # small ones: all the pixels there are
        (
            {"long_side": 6144.0, "scales": (10.0, 80.0, 160.0)},
            (2304, 3072),
        ),  # and no more than published
        ({"long_side": 6144.0, "scales": (200.0, 400.0, 500.0)}, (512, 640)),
        ({"long_side": 50.0}, (64, 64)),
    ],
)
def test_input_size(change: dict[str, float], size: tuple[int, int]) -> None:
    assert input_size(replace(SURVEY, **change)) == size


def test_masses_need_weighed_particles(tmp_path: Path) -> None:
    data = find_data("ramses://a", tmp_path, valid="ramses://b")
    with pytest.raises(RamsesError, match="--task solov2"):
        choose_plan(replace(SURVEY, weighed=0), data, CONFIGS, "ramses")


@pytest.mark.parametrize("task", ["ramses", "solov2", "mask_rcnn"])
@pytest.mark.parametrize("large", [False, True])
def test_the_config_builds_and_gives_every_particle_a_cell(
    tiny_folder: Callable[..., Path], tmp_path: Path, task: str, large: bool
) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 4, count=6)
    project = tmp_path / "project"
    project.mkdir()
    data = find_data(str(folder), project)
    survey = survey_data(data.sample)
    # Said to be large: the images are small, so that the test is quick
    seen = replace(survey, long_side=2000.0, scales=(20.0, 60.0, 150.0)) if large else survey
    plan = choose_plan(seen, data, CONFIGS, task)
    assert plan.slim != large and plan.steps * plan.batch >= 6000
    assert write_project(project, data, survey, plan) == ["config.yaml", "train.py", "split.json"]
    cfg = load_config(str(project / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.RAMSES.NUM_CLASSES == 3 and list(cfg.MODEL.RAMSES.CLASS_NAMES) == survey.classes
    assert cfg.MODEL.RAMSES.MASS.ENABLED == (task == "ramses") and (cfg.OUTPUT_DIR == str(project / "output"))
    assert cfg.INPUT.MIN_SIZE_TRAIN == (plan.short_side,) and cfg.SOLVER.MAX_ITER == plan.steps
    assert cfg.SOLVER.WARMUP_ITERS < cfg.SOLVER.MAX_ITER and cfg.TEST.DETECTIONS_PER_IMAGE >= 100
    if task == "mask_rcnn":
        assert len(plan.anchors) == len(cfg.MODEL.RPN.IN_FEATURES) and plan.anchors == sorted(plan.anchors)
    elif not large:
        register_datasets([data.train])
        images = [mapped_image(item) for item in mapped_items(cfg, [data.train], 0, 5)]
        assert assignment_statistics(images, assignment_of(cfg)).share_with_cell == 1.0
    if task != "mask_rcnn":
        RAMSES(cfg)  # grids, levels and mask stride fit each other


@pytest.mark.parametrize("name", ["Pit: 8", 'q"x', "a #1, é 'b' \\n {c} [d] %41 &e"])
def test_folders_with_letters_that_yaml_knows(tiny_folder: Callable[..., Path], tmp_path: Path, name: str) -> None:
    folder = tiny_folder(name=f"{name}/data", sizes=[(64, 96)] * 2)
    project, third = tmp_path / name / "project", f"ramses://{tmp_path / name}/third"
    project.mkdir()
    data = find_data(str(folder), project, test=third, share=0.5)
    plan = choose_plan(survey_data(data.sample), data, CONFIGS, "solov2")
    write_project(project, data, survey_data(data.sample), plan)
    cfg = load_config(str(project / "config.yaml"), ["MODEL.DEVICE", "cpu"])
    assert (cfg.DATASETS.TRAIN, cfg.DATASETS.TEST) == ((data.train,), (data.valid,))
    assert cfg.DATASETS.FINAL_TEST == (third,) and cfg.OUTPUT_DIR == str(project / "output")
    register_datasets([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])
    constants = [
        node.value for node in ast.walk(ast.parse((project / "train.py").read_text())) if hasattr(node, "value")
    ]
    assert str(project / "config.yaml") in constants


def test_what_the_comments_say_is_what_the_file_says(tiny_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_folder(sizes=[(64, 96)] * 4)
    survey = survey_data(f"ramses://{folder}")
    data = find_data(str(folder), tmp_path, test="ramses://third")
    plan = choose_plan(survey, data, CONFIGS)
    write_project(tmp_path, data, survey, plan)
    text = (tmp_path / "config.yaml").read_text()
    assert "4 images with 24 particles of 3 classes" in text and "2 px/mm" in text
    assert f"about {plan.steps * plan.batch / 3:.0f} passes" in text and text.count("#") > 12
    content = yaml.safe_load(text)
    assert content["DATASETS"]["FINAL_TEST"] == ["ramses://third"]
