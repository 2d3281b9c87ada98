"""Configs: every key is read somewhere, every YAML builds a network with keys both Detectron2 versions have."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model
from yacs.config import CfgNode as YacsNode

from ramses_d2.config import Range, add_ramses_config, check_ranges, load_config
from ramses_d2.data.catalog import register
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.engine.hooks import final_test
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.solver import resolve_iterations
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES

ROOT = Path(__file__).parents[1]
FEMTO = "configs/ramses_femto.yaml"
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
# Keys of Detectron2's main branch that release 0.6 does not have (a YAML with one of them would not load there)
MAIN_ONLY = ["BASE_LR_END", "NUM_DECAYS", "RESCALE_INTERVAL", "REPEAT_SQRT", "FLOAT32_PRECISION", "USE_FED_LOSS"]
# Pretrained weights come from the network
NO_DOWNLOAD = ["MODEL.TIMM.WEIGHTS", "", "MODEL.CONVNEXTV2.WEIGHTS", ""]


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {f"{prefix}{key}"}
    return found


class Recorder:
    """Notes which keys of a config are read, whatever copies of it are made."""

    def __init__(self, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: dict[frozenset[str], str] = {}  # a node is known by its keys
        self.read: set[str] = set()
        self.name_nodes(cfg, "")
        plain = YacsNode.__getattr__

        def recording(node: CfgNode, name: str) -> object:
            path = self.paths.get(frozenset(node))
            if path is not None:
                self.read.add(f"{path}{name}")
            return plain(node, name)

        monkeypatch.setattr(YacsNode, "__getattr__", recording)

    def name_nodes(self, node: CfgNode, path: str) -> None:
        assert frozenset(node) not in self.paths
        self.paths[frozenset(node)] = path
        for key, value in node.items():
            if isinstance(value, CfgNode) and value:
                self.name_nodes(value, f"{path}{key}.")


def test_no_key_is_dead(tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building everything a training and a prediction need reads every key that RAMSES adds."""
    bare, ours = get_cfg(), get_cfg()
    add_ramses_config(ours)
    keys = leaves(ours) - leaves(bare)
    uri = f"('ramses://{tiny_folder()}',)"
    overrides = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(str(ROOT / "tests/ramses_tiny.yaml"), overrides)
    register(cfg.DATASETS.TRAIN[0])
    recorder = Recorder(cfg, monkeypatch)
    resolve_classes(cfg, cfg.DATASETS.TRAIN)
    cfg.SOLVER.EARLY_STOPPING.PATIENCE, cfg.TEST.EVAL_PERIOD = 1, 1
    resolve_iterations(cfg, images=1)
    RamsesTrainer(cfg)
    RamsesTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    RamsesTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
    assert final_test(cfg, torch.nn.Identity(), RamsesTrainer.test) == {}
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.TIMM.NAME = "build_timm_fpn_backbone", "resnet18"
    build_backbone(cfg)
    assert len(keys) > 40 and keys - recorder.read == set()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_yaml_builds(path: Path) -> None:
    assert not [key for key in MAIN_ONLY if key in path.read_text()]
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", *NO_DOWNLOAD])
    model = build_model(cfg)
    RamsesDatasetMapper(cfg, is_train=True)
    assert cfg.INPUT.FIT == "edge" or (cfg.INPUT.MIN_SIZE_TRAIN[0] % 64 == 0 and cfg.INPUT.MAX_SIZE_TRAIN % 64 == 0)
    assert not isinstance(model, RAMSES) or len(model.grid_sizes) == len(model.strides)
    if path.name == Path(FEMTO).name:  # the published network
        assert sum(p.numel() for p in model.parameters()) == 15_314_177


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("configs/nosuch.yaml", [], "no such config file"),
        (FEMTO, ["MODEL.RAMSES.NOSUCH", "1"], "^config override: Non-existent key: MODEL.RAMSES.NOSUCH"),
        (FEMTO, ["SOLVER.BASELR", "1"], "key: SOLVER.BASELR; did you mean SOLVER.BASE_LR.$"),
        (FEMTO, ["MODEL.RAMSES.NUM_CLASSES", "many"], "NUM_CLASSES"),
        (
            "MODEL: {RAMSES: {MASS: {ENABLE: true}}}",
            [],
            "mine.yaml: .*MASS.ENABLE; did you mean MODEL.RAMSES.MASS.ENABLED.$",
        ),
        ("SOLVER: [1", [], "mine.yaml: "),
        ('_BASE_: "nosuch.yaml"', [], "mine.yaml: .*nosuch.yaml"),
    ],
)
def test_a_wrong_config_is_one_line(path: str, overrides: list[str], message: str, tmp_path: Path) -> None:
    file = ROOT / path
    if not path.startswith("configs/"):
        file = tmp_path / "mine.yaml"
        file.write_text(path)
    with pytest.raises(RamsesError, match=message) as error:
        load_config(str(file), overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (Range(1), [1, 5.5], [0, -1, math.inf, math.nan, "2", None], "from 1 on"),
        (Range(0, 1), [0, 0.5, 1], [-0.1, 1.1], "from 0 on and up to 1"),
        (Range(0, 1, is_open=True), [0.5], [0, 1, -1, 2], "above 0 and below 1"),
        (Range(0, 1, is_open="low"), [0.5, 1], [0, 1.1], "above 0 and up to 1"),
        (Range(0, 1, is_open="high"), [0, 0.5], [-0.1, 1], "from 0 on and below 1"),
        (Range(high=5), [-9, 5], [6, 10**400, -math.inf], "up to 5"),
        (("max", "min"), ["max", "min"], ["most", None, 1], "max or min"),
    ],
    ids=str,
)
def test_values_that_a_key_may_have(allowed: Range | tuple, inside: list, outside: list, text: str) -> None:
    for value in inside:
        check_ranges(CfgNode({"A": {"B": value}}), {"A.B": allowed})
    for value in outside:
        with pytest.raises(RamsesError, match=f"^A.B is .*, use (a number )?{text}$"):
            check_ranges(CfgNode({"A": {"B": value}}), {"A.B": allowed})
    if isinstance(allowed, Range):
        check_ranges(CfgNode({"A": {"B": inside}}), {"A.B": allowed})
        with pytest.raises(RamsesError, match=f"use numbers {text}$"):
            check_ranges(CfgNode({"A": {"B": [inside[0], outside[0]]}}), {"A.B": allowed})
