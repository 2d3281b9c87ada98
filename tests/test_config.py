"""Configs: every key is read somewhere, every YAML builds a network with keys both Detectron2 versions have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from ramses_d2 import RamsesError, add_ramses_config
from ramses_d2.engine import load_config

ROOT = Path(__file__).parents[1]
YAMLS = sorted((ROOT / "configs").rglob("*.yaml"))
# Keys of Detectron2's main branch that release 0.6 does not have (a YAML with one of them would not load there)
MAIN_ONLY = ["BASE_LR_END", "NUM_DECAYS", "RESCALE_INTERVAL", "REPEAT_SQRT", "FLOAT32_PRECISION", "USE_FED_LOSS"]


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


def test_no_key_is_dead() -> None:
    """Every last part of a key stands as an attribute in the code that reads it."""
    code = "\n".join(
        path.read_text()
        for path in [*(ROOT / "ramses_d2").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
        if path.name != "config.py"
    )
    unread = [key for key in our_keys() if not re.search(rf"\.{key.rsplit('.', 1)[-1]}\b", code)]
    assert len(our_keys()) > 40 and unread == []


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.name)
def test_every_yaml_builds(path: Path) -> None:
    assert not [key for key in MAIN_ONLY if key in path.read_text()]
    cfg = load_config(str(path), ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    assert cfg.INPUT.MIN_SIZE_TRAIN[0] % 64 == 0 and cfg.INPUT.MAX_SIZE_TRAIN % 64 == 0
    assert len(model.grid_sizes) == len(model.strides)


def test_femto_is_the_published_network() -> None:
    """Reference section 2.9: 15 314 177 parameters."""
    model = build_model(load_config(str(ROOT / "configs/ramses_femto.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters()) == 15_314_177


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("configs/nosuch.yaml", [], "no such config file"),
        ("configs/ramses_femto.yaml", ["MODEL.RAMSES.NOSUCH", "1"], "Non-existent key: MODEL.RAMSES.NOSUCH"),
        ("configs/ramses_femto.yaml", ["MODEL.RAMSES.NUM_CLASSES", "many"], "NUM_CLASSES"),
    ],
)
def test_a_wrong_config_is_one_line(path: str, overrides: list[str], message: str) -> None:
    with pytest.raises(RamsesError, match=message) as error:
        load_config(str(ROOT / path), overrides)
    assert "\n" not in str(error.value)
