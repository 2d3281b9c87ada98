"""Files of RAMSES2 to files of ours and back: what tools/convert_weights.py does.

RAMSES2 keeps a network in three files of one folder: best-val-loss.pt, config.json and classes.json. Ours are
model.pth, config.yaml and the same classes.json. A folder gets its name after its files were read back and fit.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ramses_d2.checkpoint.load import load_weights, read_state_dict
from ramses_d2.checkpoint.ramses2_config import cfg_to_ramses2, ramses2_to_overrides, stage_sizes
from ramses_d2.config import load_config
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path, folder_swap

logger = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]

# Lightning puts the network under "model.", DataParallel under "module."
_WRAPPERS = ("model.", "module.")
_SHOWN = 3


def _backbone_modules(cfg: CfgNode, last_stage: int) -> dict[str, str]:
    network, theirs = "backbone.bottom_up.network", "backbone"
    names = {f"{network}.stem_{i}": f"{theirs}.downsample_layers.0.{i}" for i in range(2)}
    depths, _ = stage_sizes(cfg)
    for stage in range(last_stage + 1):
        if stage:
            for i in range(2):
                names[f"{network}.stages_{stage}.downsample.{i}"] = f"{theirs}.downsample_layers.{stage}.{i}"
        for block in range(depths[stage]):
            for ours, original in (
                ("conv_dw", "dwconv"),
                ("norm", "norm"),
                ("mlp.fc1", "pwconv1"),
                ("mlp.grn", "grn"),
                ("mlp.fc2", "pwconv2"),
            ):
                names[f"{network}.stages_{stage}.blocks.{block}.{ours}"] = f"{theirs}.stages.{stage}.{block}.{original}"
    return names


def _conv_modules(cfg: CfgNode, num_levels: int) -> dict[str, str]:
    """Convolutions of the pyramid and the heads: ours -> the original's ConvLayer."""
    head, mask_head = cfg.MODEL.RAMSES.HEAD, cfg.MODEL.RAMSES.MASK_HEAD
    names = {f"backbone.lateral.{i}": f"FPN.lateral_convs.{num_levels - 1 - i}" for i in range(num_levels)}
    names |= {f"backbone.output.{i}": f"FPN.output_convs.{i}" for i in range(num_levels)}
    names |= {f"backbone.extra.{i}": f"FPN.extra_convs.{i}" for i in range(cfg.MODEL.FPN.EXTRA_LEVELS)}
    for ours, original, convs in (
        ("shared_head.class_branch", "shared_heads.class_head", head.CONVS),
        ("shared_head.kernel_branch", "shared_heads.kernel_head", head.CONVS),
        ("shared_head.factor_branch", "shared_heads.class_factor_head", head.FACTOR_CONVS),
        ("mask_head.geometry", "mask_head.geom_convs", mask_head.GEOMETRY_CONVS),
    ):
        names |= {f"{ours}.{i}": f"{original}.{i}" for i in range(convs)}
    names |= {
        "shared_head.class_logits": "shared_heads.class_logits",
        "shared_head.kernel_out": "shared_heads.kernel_out",
        f"shared_head.factor_branch.{head.FACTOR_CONVS}": "shared_heads.class_factor_out",
        f"mask_head.geometry.{mask_head.GEOMETRY_CONVS}": "mask_head.geom_final",
        "mask_head.mask_out": "mask_head.mask_out",
    }
    for level in range(num_levels):
        steps = level - mask_head.OUTPUT_LEVEL
        ours, original = f"mask_head.pipelines.{level}", f"mask_head.level_pipelines.{level}"
        if steps > 0:  # an enlargement before each convolution: beside it here, in a Sequential with it there
            names |= {f"{ours}.{2 * i + 1}": f"{original}.{i}.1" for i in range(steps)}
        else:
            names |= {f"{ours}.{i}": f"{original}.{i}" for i in range(max(-steps, 1))}
    return names


def tensor_names(cfg: CfgNode, state: State) -> dict[str, str]:
    """What RAMSES2 calls the tensors of one of our networks.

    Args:
        cfg: of a network that RAMSES2 can express.
        state: state dict of that network.

    Returns:
        our name -> the original's.
    """
    stages = sorted(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    modules = _backbone_modules(cfg, stages[-1])
    for ours, original in _conv_modules(cfg, len(stages)).items():
        # Item 0 of a ConvLayer is its padding
        modules |= {ours: f"{original}.ops.1", f"{ours}.norm": f"{original}.ops.2"}
    names = {}
    for key in state:
        module, _, leaf = key.rpartition(".")
        if module.endswith(".grn"):
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        names[key] = f"{modules[module]}.{leaf}"
    return names


def _original_shape(name: str, tensor: torch.Tensor) -> tuple[int, ...]:
    """Shape in RAMSES2 of one of our tensors: there a 1x1 convolution is a Linear, and a GRN holds [1, 1, 1, C]."""
    if ".grn." in name:
        return (1, 1, 1, tensor.numel())
    return tuple(tensor.shape[:2]) if ".pwconv" in name else tuple(tensor.shape)


def _unwrapped(state: State) -> dict[str, torch.Tensor]:
    result = {}
    for key, tensor in state.items():
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in result:
            raise RamsesError(f"{name} twice, with and without the prefix of a wrapper")
        result[name] = tensor
    return result


def _is_unused(name: str, last_stage: int) -> bool:
    """Whether a tensor belongs to a part of the original's backbone behind the last stage that the pyramid takes."""
    parts = name.split(".")
    if parts[0] != "backbone" or len(parts) < 3:
        return False
    if parts[1] in ("stages", "downsample_layers"):
        return parts[2].isdigit() and last_stage < int(parts[2]) < 4
    return parts[1] in ("norm", "head")


def from_ramses2(state: State, cfg: CfgNode, ours: State) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of a RAMSES2 network.

    Args:
        state: of RAMSES2, Lightning or DataParallel; every tensor must be of this network.
        cfg: of our network.
        ours: state dict of our network, for names and shapes.

    Returns:
        state dict of our network.
    """
    found = _unwrapped(state)
    last_stage = max(int(name[-1]) - 2 for name in cfg.MODEL.FPN.IN_FEATURES)
    unused = [name for name in found if _is_unused(name, last_stage)]
    if unused:
        logger.warning("Left out %d tensors of the backbone that the network does not use: %s", *_some(unused))
    names = tensor_names(cfg, ours)
    shapes = {original: _original_shape(original, ours[key]) for key, original in names.items()}
    unknown = [name for name in found if name not in shapes and name not in set(unused)]
    missing = [name for name in shapes if name not in found]
    misshapen = [
        f"{name} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    problems = [
        f"{len(keys)} {what}: {_some(keys)[1]}"
        for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", misshapen))
        if keys
    ]
    if problems:
        raise RamsesError(f"not the weights of this config's network ({len(shapes)} tensors): {'; '.join(problems)}")
    return {key: found[original].reshape(ours[key].shape).clone() for key, original in names.items()}


def to_ramses2(state: State, cfg: CfgNode) -> dict[str, torch.Tensor]:
    """Rename and reshape the tensors of one of our networks to those of RAMSES2, the inverse of :func:`from_ramses2`.

    Args:
        state: state dict of our network.
        cfg: its config, one that RAMSES2 can express.
    """
    names = tensor_names(cfg, state)
    return {names[key]: tensor.reshape(_original_shape(names[key], tensor)).clone() for key, tensor in state.items()}


def _some(names: list[str]) -> tuple[int, str]:
    return len(names), ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


BASE_CONFIG = Path(__file__).parents[2] / "configs" / "Base-RAMSES.yaml"
CLASSES_FILE = "classes.json"
OUR_FILES = {"model.pth", "config.yaml", CLASSES_FILE}
RAMSES2_FILES = {"best-val-loss.pt", "config.json", CLASSES_FILE}


def import_ramses2(weights: str, config: str, classes: str, output: str, *, force: bool = False) -> str:
    """Convert a RAMSES2 network to a folder with model.pth, config.yaml and classes.json.

    Args:
        weights: state dict or Lightning checkpoint.
        config: config.json of the same network.
        classes: classes.json, {name: id from 1}.
        output: folder to make.
        force: replace an earlier conversion.

    Returns:
        a line to print.
    """
    with _new_folder(Path(output), OUR_FILES, force) as folder:
        state = read_state_dict(weights)
        names = read_classes(classes)
        delta = _overrides(config, names)
        delta["MODEL"]["CONVNEXTV2"]["WEIGHTS"] = ""  # they are in the file
        _write_yaml(folder / "config.yaml", delta, f"{Path(weights).name} and {Path(config).name}")
        cfg = _config(folder / "config.yaml")
        model = build_model(cfg)
        try:
            converted = from_ramses2(state, cfg, model.state_dict())
        except RamsesError as error:
            raise RamsesError(f"{weights}: {error}") from error
        torch.save({"model": converted}, folder / "model.pth")
        load_weights(model, str(folder / "model.pth"))
        _write_classes(folder / CLASSES_FILE, names)
    return f"wrote {len(converted)} tensors and {len(names)} classes to {output}: {', '.join(sorted(OUR_FILES))}"


def import_config(config: str, classes: str | None, output: str, *, force: bool = False) -> str:
    """Convert a RAMSES2 config.json to YAML, without weights.

    Args:
        config: config.json.
        classes: classes.json, or None.
        output: file to write.
        force: replace an existing file.

    Returns:
        a line to print.
    """
    path = Path(output)
    if path.is_dir() or (path.exists() and not force):
        raise RamsesError(f"{output} exists: choose another --output, or replace a file with --force")
    delta = _overrides(config, None if classes is None else read_classes(classes))
    with _parents(path), atomic_path(path) as unfinished:
        _write_yaml(unfinished, delta, Path(config).name)
        build_model(_config(unfinished))
    return f"wrote {output}"


def export_ramses2(config: str, weights: str, output: str, *, force: bool = False) -> str:
    """Convert one of our networks to a folder with best-val-loss.pt, config.json and classes.json that RAMSES2 loads.

    Args:
        config: our config.yaml.
        weights: our checkpoint.
        output: folder to make.
        force: replace an earlier conversion.

    Returns:
        a line to print.
    """
    with _new_folder(Path(output), RAMSES2_FILES, force) as folder:
        cfg = _config(Path(config))
        ramses2 = cfg_to_ramses2(cfg)
        model = build_model(cfg)
        load_weights(model, weights)
        names = list(cfg.MODEL.RAMSES.CLASS_NAMES) or [f"class_{i}" for i in range(cfg.MODEL.RAMSES.NUM_CLASSES)]
        state = to_ramses2(model.state_dict(), cfg)
        torch.save(state, folder / "best-val-loss.pt")
        (folder / "config.json").write_text(json.dumps(ramses2, indent=4) + "\n", encoding="utf-8")
        _write_classes(folder / CLASSES_FILE, names)
        from_ramses2(read_state_dict(folder / "best-val-loss.pt"), cfg, model.state_dict())
    return f"wrote {len(state)} tensors and {len(names)} classes to {output}: {', '.join(sorted(RAMSES2_FILES))}"


def read_classes(path: str) -> list[str]:
    """Read a classes.json, {name: id}.

    Returns:
        names by ascending id.
    """
    ids = _read_json(path)
    if sorted(map(str, ids.values())) != sorted(str(i + 1) for i in range(len(ids))) or not ids:
        raise RamsesError(f"{path}: the classes must be {{name: id}} with each id from 1 to the number of names once")
    return sorted(ids, key=lambda name: int(ids[name]))


def _write_classes(path: Path, names: Sequence[str]) -> None:
    ids = {name: index + 1 for index, name in enumerate(names)}
    path.write_text(json.dumps(ids, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise RamsesError(f"{path}: no such file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RamsesError(f"{path}: not a readable JSON file ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise RamsesError(f"{path}: holds no JSON object {{...}}")
    return content


def _overrides(config: str, names: Sequence[str] | None) -> dict[str, Any]:
    content = _read_json(config)
    try:
        return ramses2_to_overrides(content, names)
    except RamsesError as error:
        raise RamsesError(f"{config}: {error}") from error


def _write_yaml(path: Path, delta: dict[str, Any], source: str) -> None:
    """Write a config file over configs/Base-RAMSES.yaml, which it names relative to itself."""
    if not BASE_CONFIG.is_file():
        raise RamsesError(f"{BASE_CONFIG}: no such file; converted configs build on it")
    base = Path(os.path.relpath(BASE_CONFIG, path.parent.resolve())).as_posix()
    style = {"sort_keys": False, "default_flow_style": None, "allow_unicode": True, "width": 120}
    text = yaml.safe_dump({"_BASE_": base} | delta, **style)
    path.write_text(f"# Converted from RAMSES2's {source} by tools/convert_weights.py\n{text}", encoding="utf-8")


def _config(path: Path) -> CfgNode:
    """Read one of our config files for a network on the CPU without pretrained weights of the backbone."""
    return load_config(str(path), ["MODEL.DEVICE", "cpu", "MODEL.CONVNEXTV2.WEIGHTS", ""])


@contextmanager
def _new_folder(output: Path, files: set[str], force: bool) -> Iterator[Path]:
    """A folder to fill beside ``output``, renamed to it at the end and removed on failure."""
    if output.exists() and not force:
        raise RamsesError(f"{output} exists: choose another --output, or replace an earlier conversion with --force")
    if output.exists() and not (output.is_dir() and {path.name for path in output.iterdir()} <= files):
        raise RamsesError(f"{output} holds other things than {', '.join(sorted(files))} and is not replaced")
    with _parents(output), folder_swap(output) as folder:
        yield folder


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """Make the folders above a path, and remove them again when what follows fails."""
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # somebody else has put something into it
                folder.rmdir()
        raise
