"""Pretrained backbones: every tensor comes from the file, or an error says why not."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import RamsesError
from ..modeling.backbone.convnextv2 import ConvNeXtV2
from ..modeling.backbone.timm_backbone import whole_network
from .convnextv2_files import dense_state, name_of, size_of
from .read import read_state_dict
from .timm_download import SCHEME, download
from .timm_names import whole_names

logger = logging.getLogger(__name__)

# The network of a backbone in a checkpoint of ours
PREFIX = "backbone.bottom_up.network."
# Parts of a classifier, or of self-supervised training, that no backbone has
_NOT_BACKBONE = re.compile(r"(head|norm|fc|decoder|mask_token)")
_COUNTER = "num_batches_tracked"


def load_backbone(bottom_up: nn.Module, source: str, *, key: str) -> None:
    """Load pretrained weights into a backbone.

    Args:
        bottom_up: a :class:`ConvNeXtV2` or :class:`TimmBackbone`.
        source: an official ConvNeXt V2 file, one of timm or torchvision, a checkpoint of ours, or ``timm://...``.
        key: config key to name in errors, such as ``MODEL.CONVNEXTV2.WEIGHTS``.

    Raises:
        RamsesError: the source cannot be read, or its tensors are not exactly those of this backbone.
    """
    if source.startswith(SCHEME):
        state = download(source, bottom_up.timm_name, key=key)
    else:
        state = _read(source, key)
    count = _fill(bottom_up, state, place=f"{key}: {source}", name_key=f"{key.rpartition('.')[0]}.NAME")
    logger.info("Loaded all %d tensors of the backbone %s from %s", count, bottom_up.timm_name, source)


def convert_convnextv2(weights: str, output: str, *, name: str | None = None, force: bool = False) -> str:
    """Write an official ConvNeXt V2 file as a Detectron2 checkpoint that holds the backbone alone.

    Args:
        weights: an official file, or another that :func:`load_backbone` takes.
        output: file to write.
        name: the network, such as ``convnextv2_femto``; read from the shapes when not given.
        force: overwrite ``output``.

    Returns:
        one line that says what was written.

    Raises:
        RamsesError: ``output`` exists, or ``weights`` is no ConvNeXt V2 or another one than ``name``.
    """
    if Path(output).exists() and not force:
        raise RamsesError(f"{output} exists already, use --force to overwrite it")
    state = _read(weights, "--weights")
    if name is None:
        dense = dense_state(_own_part(state))
        size = size_of(dense)
        name = name_of(size, dense) if size else ""
        if not name:
            found = f"has {size}, which is no published ConvNeXt V2" if size else "holds no ConvNeXt V2"
            raise RamsesError(f"--weights: {weights} {found}")
    bottom_up = ConvNeXtV2(name=name, out_features=("res2", "res3", "res4", "res5"))
    count = _fill(bottom_up, state, place=f"--weights: {weights}", name_key="--name")
    tensors = {f"{PREFIX}{key}": tensor for key, tensor in bottom_up.network.state_dict().items()}
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    temporary = f"{output}.{os.getpid()}.tmp"
    try:
        torch.save({"model": tensors}, temporary)
        os.replace(temporary, output)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return f"wrote {output}: the {count} tensors of {name}"


def _read(path: str, key: str) -> dict[str, torch.Tensor]:
    try:
        if path.endswith(".safetensors") and Path(path).is_file():
            return load_file(path)
        return read_state_dict(path)
    except (RamsesError, SafetensorError) as error:
        raise RamsesError(f"{key}: {error if isinstance(error, RamsesError) else f'{path}: {error}'}") from error


def _own_part(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The backbone's tensors of a checkpoint of ours; all tensors of any other file."""
    own = {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    return own or dict(state)


def _fill(bottom_up: nn.Module, state: Mapping[str, torch.Tensor], *, place: str, name_key: str) -> int:
    """Load tensors of any supported naming into a backbone.

    Args:
        bottom_up: the backbone.
        state: tensors of a file.
        place: config key and file, for errors.
        name_key: config key of the network's name, for errors.

    Returns:
        how many tensors were loaded.

    Raises:
        RamsesError: a tensor is missing, unknown or of another shape.
    """
    whole = whole_network(bottom_up.timm_name, bottom_up.timm_arguments)
    expected = whole.state_dict()
    network = bottom_up.network.state_dict()
    names = whole_names(network, expected)
    own = dense_state(_own_part(state))
    readings = whole_names(own, expected)
    own = {readings[key]: tensor for key, tensor in own.items()}
    _check_size(own, expected, place, f"{name_key} says {bottom_up.timm_name}")
    own = _with_timm_names(own, names.values(), whole)
    _check_tensors(own, {names[key]: tensor for key, tensor in network.items()}, whole, place, bottom_up.timm_name)
    tensors = {key: own[name] for key, name in names.items() if name in own}
    bottom_up.network.load_state_dict({**network, **tensors})
    return len(tensors)


def _with_timm_names(
    state: dict[str, torch.Tensor], needed: Iterable[str], whole: nn.Module
) -> dict[str, torch.Tensor]:
    """Rename by timm's own filter for files of the network's authors, when the names are not timm's yet."""
    rename = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    if rename is None or all(name in state or name.endswith(_COUNTER) for name in needed):
        return state
    try:
        renamed = rename(dict(state), whole)
    except Exception:  # made for the authors' files alone: on others it fails somehow, and the names stay unknown
        return state
    # A filter may fill gaps from the network it is given, which has no values here
    return {key: tensor for key, tensor in renamed.items() if not tensor.is_meta}


def _check_size(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], place: str, wish: str) -> None:
    """Say which ConvNeXt the file has when it is clearly another one; all names and shapes are compared later."""
    found, wanted = size_of(state), size_of(expected)
    if found is None or wanted is None:
        return
    if any(a != b for pair in zip(found, wanted, strict=True) for a, b in zip(*pair, strict=False)):
        raise RamsesError(f"{place} is {name_of(found, state) or 'a network'} with {found}, {wish} with {wanted}")
    stem = state.get("stem.0.weight", state.get("downsample_layers.0.0.weight"))
    side = expected["stem.0.weight"].shape[-1] if "stem.0.weight" in expected else 0
    if stem is not None and side and stem.shape[-1] != side:
        raise RamsesError(
            f"{place} has a stem of {stem.shape[-1]}x{stem.shape[-1]} px, this network one of {side}x{side}: change "
            f'MODEL.CONVNEXTV2.STEM, the published weights need "patch"'
        )


def _check_tensors(
    state: Mapping[str, torch.Tensor], needed: Mapping[str, torch.Tensor], whole: nn.Module, place: str, name: str
) -> None:
    """Compare the tensors of a file, in timm's names, with those a backbone needs.

    Raises:
        RamsesError: see :func:`_fill`; the message names the first few differences.
    """
    expected = whole.state_dict()
    classifier = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    problems = [f"{key} is missing" for key in needed if key not in state and not key.endswith(_COUNTER)]
    for key, tensor in state.items():
        wanted = needed.get(key, expected.get(key))
        if key not in needed and (key.startswith(heads) or _NOT_BACKBONE.match(key)):
            continue
        if wanted is None:
            problems.append(f"{key} is unknown")
        elif tensor.shape != wanted.shape:
            problems.append(f"{key} is {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise RamsesError(f"{place} does not fit {name}: {', '.join(problems[:3])}{more}")
