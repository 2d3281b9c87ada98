"""Networks of RAMSES2 to ours and back, tensor by tensor and file by file: what tools/convert_weights.py does.

RAMSES2 keeps a network in three files of one folder: best-val-loss.pt, config.json and classes.json. Ours are
model.pth, config.yaml and the same classes.json. A folder gets its name after its files were read back and fit.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ramses_d2.checkpoint.load import load_weights, mismatches, read_state_dict, shortened
from ramses_d2.checkpoint.ramses2_config import cfg_to_ramses2, ramses2_to_overrides
from ramses_d2.config import load_config
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path, check_output, folder_swap, read_json

logger = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]

BASE_CONFIG = Path(__file__).parents[2] / "configs" / "Base-RAMSES.yaml"
CLASSES_FILE = "classes.json"
OUR_FILES = {"model.pth", "config.yaml", CLASSES_FILE}
RAMSES2_FILES = {"best-val-loss.pt", "config.json", CLASSES_FILE}
# For building a network to convert: on the CPU, without pretrained weights of the backbone
_BARE = ["MODEL.DEVICE", "cpu", "MODEL.CONVNEXTV2.WEIGHTS", ""]


# ---- tensors ----------------------------------------------------------------------------------------------------


def tensor_names(cfg: CfgNode, state: State) -> dict[str, str]:
    """Our name -> RAMSES2's, of every tensor of a network that RAMSES2 can express."""
    head, mask_head = cfg.MODEL.RAMSES.HEAD, cfg.MODEL.RAMSES.MASK_HEAD
    num_levels = len(cfg.MODEL.FPN.IN_FEATURES)

    def pipeline(match: re.Match[str]) -> str:
        # On coarser levels an enlargement goes before each convolution: beside it here, in a Sequential with it there
        is_enlarged = int(match[1]) > mask_head.OUTPUT_LEVEL
        return f"mask_head.level_pipelines.{match[1]}." + (f"{int(match[2]) // 2}.1" if is_enlarged else match[2])

    rules = (
        (r"^backbone\.bottom_up\.network\.stem_(\d)", r"backbone.downsample_layers.0.\1"),
        (r"^backbone\.bottom_up\.network\.stages_(\d)\.downsample", r"backbone.downsample_layers.\1"),
        (r"^backbone\.bottom_up\.network\.stages_(\d)\.blocks", r"backbone.stages.\1"),
        (r"\.conv_dw\.", ".dwconv."),
        (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
        (r"\.mlp\.grn\.weight$", ".grn.gamma"),
        (r"\.mlp\.grn\.bias$", ".grn.beta"),
        (r"^backbone\.lateral\.(\d+)", lambda match: f"FPN.lateral_convs.{num_levels - 1 - int(match[1])}"),
        (r"^backbone\.(output|extra)", r"FPN.\1_convs"),
        (r"^shared_head\.(class|kernel)_branch", r"shared_heads.\1_head"),
        (rf"^shared_head\.factor_branch\.{head.FACTOR_CONVS}(?!\d)", "shared_heads.class_factor_out"),
        (r"^shared_head\.factor_branch", "shared_heads.class_factor_head"),
        (r"^shared_head\.", "shared_heads."),
        (rf"^mask_head\.geometry\.{mask_head.GEOMETRY_CONVS}(?!\d)", "mask_head.geom_final"),
        (r"^mask_head\.geometry", "mask_head.geom_convs"),
        (r"^mask_head\.pipelines\.(\d+)\.(\d+)", pipeline),
        # The original's ConvLayer is a list: padding, convolution, norm
        (r"^((?!backbone).*)\.norm\.", r"\1.ops.2."),
        (r"^((?!backbone).*(?<!\.ops\.2))\.(weight|bias)$", r"\1.ops.1.\2"),
    )
    names = {}
    for key in state:
        names[key] = key
        for ours, theirs in rules:
            names[key] = re.sub(ours, theirs, names[key])
    return names


def _original_shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape in RAMSES2 of one of our tensors: there a 1x1 convolution is a Linear, and a GRN holds [1, 1, 1, C]."""
    if ".grn." in name:
        return (1, 1, 1, tensor.numel())
    return tuple(tensor.shape[:2]) if ".pwconv" in name else tuple(tensor.shape)


def from_ramses2(state: State, cfg: CfgNode, ours: State) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of a RAMSES2 network, every one of them, as those of ``ours``."""
    found: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        name = re.sub(r"^((model|module)\.)+", "", key)  # of Lightning and DataParallel
        if name in found:
            raise RamsesError(f"{name} twice, with and without the prefix of a wrapper")
        found[name] = tensor
    # The original's backbone may have more than the pyramid takes: a classifier, and stages behind the last one
    last_stage = max(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    parts = {name: re.match(r"backbone\.(?:norm|head|(?:stages|downsample_layers)\.([0-3]))\.", name) for name in found}
    unused = [name for name, part in parts.items() if part and (part[1] is None or int(part[1]) > last_stage)]
    if unused:
        text = "Left out %d tensors of the backbone that the network does not use: %s"
        logger.warning(text, len(unused), shortened(unused))

    names = tensor_names(cfg, ours)
    shapes = {original: _original_shape(original, ours[key]) for key, original in names.items()}
    problems = mismatches({name: tensor for name, tensor in found.items() if name not in unused}, shapes)
    if problems:
        raise RamsesError(f"not the {len(shapes)} tensors of this config's network: {shortened(problems)}")
    return {key: found[original].reshape(ours[key].shape).clone() for key, original in names.items()}


def to_ramses2(state: State, cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of one of our networks to those of RAMSES2; the inverse of ``from_ramses2``."""
    names = tensor_names(cfg, state)
    return {names[key]: tensor.reshape(_original_shape(names[key], tensor)).clone() for key, tensor in state.items()}


# ---- files ------------------------------------------------------------------------------------------------------
# Everything is read, converted and checked before anything is written. Each function returns a line to print.


def import_ramses2(weights: str, config: str, classes: str, output: str, *, force: bool = False) -> str:
    """Convert a RAMSES2 network, a state dict or Lightning checkpoint, to a folder with ``OUR_FILES``."""
    _check_folder(Path(output), OUR_FILES, force)
    state, names = read_state_dict(weights), read_classes(classes)
    delta = _overrides(config, names)
    delta["MODEL"]["CONVNEXTV2"]["WEIGHTS"] = ""  # they are in the file
    cfg = _config(delta)
    model = build_model(cfg)
    try:
        converted = from_ramses2(state, cfg, model.state_dict())
    except RamsesError as error:
        raise RamsesError(f"{weights}: {error}") from error
    with folder_swap(Path(output)) as folder:
        _write_yaml(folder / "config.yaml", delta, f"{Path(weights).name} and {Path(config).name}")
        torch.save({"model": converted}, folder / "model.pth")
        _write_classes(folder / CLASSES_FILE, names)
        assert load_config(str(folder / "config.yaml"), _BARE) == cfg
        load_weights(model, str(folder / "model.pth"))
    return f"wrote {len(converted)} tensors and {len(names)} classes to {output}: {', '.join(sorted(OUR_FILES))}"


def import_config(config: str, classes: str | None, output: str, *, force: bool = False) -> str:
    """Convert a RAMSES2 config.json, with class names or without, to a YAML file."""
    path = Path(output)
    check_output(path, force)
    delta = _overrides(config, None if classes is None else read_classes(classes))
    build_model(_config(delta))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as unfinished:
        _write_yaml(unfinished, delta, Path(config).name)
    return f"wrote {output}"


def export_ramses2(config: str, weights: str, output: str, *, force: bool = False) -> str:
    """Convert one of our networks to a folder with ``RAMSES2_FILES`` that RAMSES2 loads."""
    _check_folder(Path(output), RAMSES2_FILES, force)
    cfg = load_config(config, _BARE)
    ramses2 = cfg_to_ramses2(cfg)
    model = build_model(cfg)
    load_weights(model, weights)
    names = list(cfg.MODEL.RAMSES.CLASS_NAMES) or [f"class_{i}" for i in range(cfg.MODEL.RAMSES.NUM_CLASSES)]
    state = to_ramses2(model.state_dict(), cfg)
    with folder_swap(Path(output)) as folder:
        torch.save(state, folder / "best-val-loss.pt")
        (folder / "config.json").write_text(json.dumps(ramses2, indent=4) + "\n", encoding="utf-8")
        _write_classes(folder / CLASSES_FILE, names)
        from_ramses2(read_state_dict(folder / "best-val-loss.pt"), cfg, model.state_dict())
    return f"wrote {len(state)} tensors and {len(names)} classes to {output}: {', '.join(sorted(RAMSES2_FILES))}"


def _check_folder(output: Path, files: set[str], force: bool) -> None:
    """A conversion has no marker file, because RAMSES2 reads the folder too: it is known by having nothing else."""
    if output.exists() and not force:
        raise RamsesError(f"{output} exists: choose another --output, or replace an earlier conversion with --force")
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= files):
        raise RamsesError(f"{output} holds other things than {', '.join(sorted(files))} and is not replaced")


def _read_object(path: str) -> dict[str, Any]:
    content = read_json(Path(path))
    if not isinstance(content, dict):
        raise RamsesError(f"{path}: holds no JSON object {{...}}")
    return content


def read_classes(path: str) -> list[str]:
    """Read the names of a classes.json, {name: id}, by ascending id."""
    ids = _read_object(path)
    if sorted(map(str, ids.values())) != sorted(str(i + 1) for i in range(len(ids))) or not ids:
        raise RamsesError(f"{path}: the classes must be {{name: id}} with each id from 1 to the number of names once")
    return sorted(ids, key=lambda name: int(ids[name]))


def _write_classes(path: Path, names: Sequence[str]) -> None:
    ids = {name: index + 1 for index, name in enumerate(names)}
    path.write_text(json.dumps(ids, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _overrides(config: str, names: Sequence[str] | None) -> dict[str, Any]:
    content = _read_object(config)
    try:
        return ramses2_to_overrides(content, names)
    except RamsesError as error:
        raise RamsesError(f"{config}: {error}") from error


def _config(delta: dict[str, Any]) -> CfgNode:
    cfg = load_config(str(BASE_CONFIG), _BARE)
    cfg.merge_from_other_cfg(CfgNode(delta))
    cfg.MODEL.CONVNEXTV2.WEIGHTS = ""
    return cfg


def _write_yaml(path: Path, delta: dict[str, Any], source: str) -> None:
    """Write a config file over configs/Base-RAMSES.yaml, which it names relative to itself."""
    base = Path(os.path.relpath(BASE_CONFIG, path.parent.resolve())).as_posix()
    style = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True, "width": 120}
    text = yaml.safe_dump({"_BASE_": base} | delta, **style)
    path.write_text(f"# Converted from RAMSES2's {source} by tools/convert_weights.py\n{text}", encoding="utf-8")
