"""Files of RAMSES2 to files of ours and back: what tools/convert_weights.py does.

RAMSES2 keeps a network in three files of one folder: best-val-loss.pt, config.json and classes.json. Ours are
model.pth, config.yaml and the same classes.json. A folder gets its name after its files were read back and fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..atomic_file import atomic_path
from ..engine import load_config
from ..errors import RamsesError
from ..folder_swap import folder_swap
from .load import load_weights
from .ramses2_config import ramses2_to_overrides
from .ramses2_export import cfg_to_ramses2
from .ramses2_weights import from_ramses2, to_ramses2
from .read import read_state_dict

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

    Raises:
        RamsesError: a file is missing, wrong, or does not fit the others; nothing is written then.
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

    Raises:
        RamsesError: a file is missing or wrong; nothing is written then.
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

    Raises:
        RamsesError: a file is missing or wrong, or RAMSES2 cannot express the network; nothing is written then.
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

    Raises:
        RamsesError: no such file, no JSON, or ids other than 1 to the number of names.
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
    """A folder to fill beside ``output``, renamed to it at the end and removed on failure.

    Raises:
        RamsesError: ``output`` exists without ``force``, or holds other things than ``files``.
    """
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
