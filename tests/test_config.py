"""Configs: every key is read somewhere, every YAML builds a network with keys both Detectron2 versions have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone, build_model
from yacs.config import CfgNode as YacsNode

from ramses_d2.config import add_ramses_config, load_config
from ramses_d2.data.catalog import register
from ramses_d2.data.mapper import RamsesDatasetMapper
from ramses_d2.engine.hooks import final_test
from ramses_d2.engine.setup import resolve_classes
from ramses_d2.engine.solver import resolve_iterations
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.meta_arch import RAMSES

ROOT = Path(__file__).parents[1]
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
# Keys of Detectron2's main branch that release 0.6 does not have (a YAML with one of them would not load there)
MAIN_ONLY = ["BASE_LR_END", "NUM_DECAYS", "RESCALE_INTERVAL", "REPEAT_SQRT", "FLOAT32_PRECISION", "USE_FED_LOSS"]
# Pretrained weights come from the network
NO_DOWNLOAD = ["MODEL.TIMM.WEIGHTS", "", "MODEL.CONVNEXTV2.WEIGHTS", ""]


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name}
    return found


def our_keys() -> set[str]:
    cfg = get_cfg()
    before = leaves(cfg)
    add_ramses_config(cfg)
    return leaves(cfg) - before


class Recorder:
    """Notes which keys of a config are read, whatever copies of it are made."""

    def __init__(self, cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: dict[frozenset[str], str] = {}  # a node is known by its keys
        self.read: set[str] = set()
        self._name_nodes(cfg, "")
        plain = YacsNode.__getattr__

        def recording(node: CfgNode, name: str) -> object:
            path = self.paths.get(frozenset(node))
            if path is not None:
                self.read.add(f"{path}{name}")
            return plain(node, name)

        monkeypatch.setattr(YacsNode, "__getattr__", recording)

    def _name_nodes(self, node: CfgNode, path: str) -> None:
        assert frozenset(node) not in self.paths
        self.paths[frozenset(node)] = path
        for key, value in node.items():
            if isinstance(value, CfgNode) and value:
                self._name_nodes(value, f"{path}{key}.")


def test_no_key_is_dead(tiny_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Building everything a training and a prediction need reads every key that RAMSES adds."""
    uri = f"('ramses://{tiny_folder()}',)"
    overrides = ["DATASETS.TRAIN", uri, "DATASETS.TEST", uri, "OUTPUT_DIR", str(tmp_path)]
    cfg = load_config(str(ROOT / "tests/ramses_tiny.yaml"), overrides)
    for name in cfg.DATASETS.TRAIN:
        register(name)
    recorder = Recorder(cfg, monkeypatch)
    resolve_classes(cfg, cfg.DATASETS.TRAIN)
    cfg.SOLVER.EARLY_STOPPING.PATIENCE, cfg.TEST.EVAL_PERIOD = 1, 1
    resolve_iterations(cfg, images=1)
    RamsesTrainer(cfg)
    RamsesTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    RamsesTrainer.build_evaluator(cfg, cfg.DATASETS.TEST[0])
    assert final_test(cfg, torch.nn.Identity(), RamsesTrainer.test) == {}
    cfg.MODEL.BACKBONE.NAME = "build_timm_fpn_backbone"
    cfg.MODEL.TIMM.NAME = "resnet18"
    build_backbone(cfg)
    assert len(our_keys()) > 40 and our_keys() - recorder.read == set()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_yaml_builds(path: Path) -> None:
    assert not [key for key in MAIN_ONLY if key in path.read_text()]
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu", *NO_DOWNLOAD])
    model = build_model(cfg)
    RamsesDatasetMapper(cfg, is_train=True)
    assert cfg.INPUT.FIT == "edge" or (cfg.INPUT.MIN_SIZE_TRAIN[0] % 64 == 0 and cfg.INPUT.MAX_SIZE_TRAIN % 64 == 0)
    assert not isinstance(model, RAMSES) or len(model.grid_sizes) == len(model.strides)


def test_femto_is_the_published_network() -> None:
    """Reference section 2.9: 15 314 177 parameters."""
    model = build_model(load_config(str(ROOT / "configs/ramses_femto.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters()) == 15_314_177


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("configs/nosuch.yaml", [], "no such config file"),
        ("configs/ramses_femto.yaml", ["MODEL.RAMSES.NOSUCH", "1"], "Non-existent key: MODEL.RAMSES.NOSUCH"),
        ("configs/ramses_femto.yaml", ["SOLVER.BASELR", "1"], "key: SOLVER.BASELR; did you mean SOLVER.BASE_LR.$"),
        ("configs/ramses_femto.yaml", ["MODEL.RAMSES.NUM_CLASSES", "many"], "NUM_CLASSES"),
    ],
)
def test_a_wrong_config_is_one_line(path: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        load_config(str(ROOT / path), overrides)
    assert "\n" not in str(error.value)


def test_a_misspelt_key_of_a_file_is_named_with_the_right_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        f"_BASE_: {ROOT}/configs/ramses_demo.yaml\nMODEL: {{RAMSES: {{MASS: {{ENABLE: true}}}}}}\n"
    )
    with pytest.raises(RamsesError, match="mine.yaml: .*MASS.ENABLE; did you mean MODEL.RAMSES.MASS.ENABLED.$"):
        load_config(str(tmp_path / "mine.yaml"))
