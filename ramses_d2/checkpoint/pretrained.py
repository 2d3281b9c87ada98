"""Pretrained backbones: every tensor comes from the file, or an error says why not."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg, load_state_dict_from_hf
from torch import nn

from ramses_d2.checkpoint.load import read_state_dict
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import ConvNeXtV2, TimmBackbone, pyramid, whole_network

_WRAPPERS = ("body", "model")


def whole_names(keys: Iterable[str], whole: Collection[str]) -> dict[str, str]:
    """The name in the whole network of every parameter of its feature network.

    Args:
        keys: names in the feature network.
        whole: names in the whole network.

    Returns:
        feature-network name -> name in ``whole``, or the name itself when nothing in ``whole`` answers to it.
    """
    return {key: next((name for name in _readings(key) if name in whole), key) for key in keys}


def _readings(key: str) -> Iterator[str]:
    """What a name may have been, the likeliest first."""
    yield key
    first, _, rest = key.partition(".")
    if first in _WRAPPERS:
        yield rest
    for position, letter in enumerate(first):
        if letter == "_":
            yield f"{first[:position]}.{first[position + 1 :]}.{rest}"


SCHEME = "timm://"


def download(source: str, architecture: str, *, key: str) -> dict[str, torch.Tensor]:
    """Fetch, or take from the cache, the tensors of one of timm's pretrained networks.

    Args:
        source: such as ``timm://convnextv2_femto.fcmae_ft_in1k``.
        architecture: the network they are for.
        key: config key to name in errors.
    """
    name = source.removeprefix(SCHEME)
    if name.partition(".")[0] != architecture:
        raise RamsesError(f"{key}: {source} has weights of another network than {architecture}")
    known = timm.list_pretrained(f"{architecture}.*")
    try:
        config = get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None or not config.has_weights:
        have = f"it has {', '.join(known)}" if known else "it has none for this network"
        raise RamsesError(f"{key}: timm has no weights {source}, {have}")
    if not config.hf_hub_id:
        raise RamsesError(f"{key}: {source} is not on the Hugging Face hub: download {config.url} and name that file")
    try:
        return load_state_dict_from_hf(config.hf_hub_id, weights_only=True)
    except Exception as error:  # any layer of a download can fail, each in its own way
        raise RamsesError(
            f"{key}: cannot download {source} from the Hugging Face hub ({type(error).__name__}); without a "
            f"connection, download its model.safetensors elsewhere and name that file"
        ) from error


_ENCODER = "encoder."
# What FCMAE pretraining has besides the encoder: the part that paints the hidden patches again
_DECODER = ("decoder.", "mask_token", "proj.", "pred.")
# One depthwise convolution per block, in official names, timm's, and those of timm's feature networks
_BLOCK = re.compile(r"stages[._](\d+)\.(?:blocks\.)?(\d+)\.(?:dwconv|conv_dw)\.weight")


class Size(NamedTuple):
    """Blocks and channels of the stages of a ConvNeXt."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"depths {list(self.depths)}, dims {list(self.dims)}"


_SIZES = {
    name: Size(depths, tuple(channels * 2**stage for stage in range(4)))
    for name, depths, channels in (
        ("convnextv2_atto", (2, 2, 6, 2), 40),
        ("convnextv2_femto", (2, 2, 6, 2), 48),
        ("convnextv2_pico", (2, 2, 6, 2), 64),
        ("convnextv2_nano", (2, 2, 8, 2), 80),
        ("convnextv2_tiny", (3, 3, 9, 3), 96),
        ("convnextv2_base", (3, 3, 27, 3), 128),
        ("convnextv2_large", (3, 3, 27, 3), 192),
        ("convnextv2_huge", (3, 3, 27, 3), 352),
    )
}


def size_of(state: Mapping[str, torch.Tensor]) -> Size | None:
    """The size of the ConvNeXt whose tensors these are, whichever its names follow; None when it is none."""
    blocks: dict[int, dict[int, int]] = {}
    for key, tensor in state.items():
        match = _BLOCK.fullmatch(key)
        if match and tensor.ndim == 4:
            blocks.setdefault(int(match[1]), {})[int(match[2])] = tensor.shape[0]
    stages = [blocks[stage] for stage in sorted(blocks)]
    return Size(tuple(map(len, stages)), tuple(max(stage.values()) for stage in stages)) if stages else None


def name_of(size: Size, keys: Iterable[str]) -> str:
    """timm's name for a ConvNeXt V2 of this size; "" when it is none of the eight published ones."""
    if not any("grn" in key for key in keys):  # ConvNeXt V1 has some of the same sizes
        return ""
    return next((name for name, published in _SIZES.items() if published == size), "")


def dense_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of an FCMAE pretraining checkpoint as those of the dense network; other files are left as they are.

    A sparse kernel is (k * k, C) when depthwise, else (k * k, C in, C out), with the column of the kernel as the slow
    part of the first index. Its bias is (1, C), which timm's filter reshapes.

    Args:
        state: official names.
    """
    if not any(key.startswith((_ENCODER, "decoder.", "mask_token")) or key.endswith(".kernel") for key in state):
        return dict(state)
    dense = {}
    for name, tensor in state.items():
        key = name.removeprefix(_ENCODER)
        if key == name and key.startswith(_DECODER):
            continue
        key = key.replace(".ln.", ".").replace(".linear.", ".")  # Minkowski's layers wrap torch's
        if key.endswith(".kernel"):
            key, tensor = f"{key.removesuffix('.kernel')}.weight", _dense_kernel(tensor)
        dense[key] = tensor
    return dense


def _dense_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """(k * k, C) -> (C, 1, k, k), or (k * k, C in, C out) -> (C out, C in, k, k)."""
    side = isqrt(kernel.shape[0])
    if side * side != kernel.shape[0] or kernel.ndim not in (2, 3):
        return kernel  # not one of these: the comparison of shapes will say so
    columns_rows = kernel.unflatten(0, (side, side))
    if kernel.ndim == 2:
        columns_rows = columns_rows.unsqueeze(2)
    return columns_rows.permute(3, 2, 1, 0).contiguous()


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
    """Compare the tensors of a file, in timm's names, with those a backbone needs."""
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


def _load(bottom_up: Backbone, cfg: CfgNode, source: str, key: str) -> None:
    """Pretrained weights, unless ``MODEL.WEIGHTS`` brings those of the whole network anyway."""
    if source and not cfg.MODEL.WEIGHTS:
        load_backbone(bottom_up, source, key=key)


@BACKBONE_REGISTRY.register()
def build_convnextv2_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """ConvNeXt V2 with a pyramid, from ``MODEL.CONVNEXTV2`` and ``MODEL.FPN``."""
    del input_shape  # ConvNeXt always reads three channels
    options = cfg.MODEL.CONVNEXTV2
    bottom_up = ConvNeXtV2(
        name=options.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        depths=options.DEPTHS,
        dims=options.DIMS,
        stem=options.STEM,
        drop_path=options.DROP_PATH,
        checkpointing=options.CHECKPOINTING,
    )
    _load(bottom_up, cfg, options.WEIGHTS, "MODEL.CONVNEXTV2.WEIGHTS")
    return pyramid(cfg, bottom_up)


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """Any timm network that gives feature maps, with a pyramid, from ``MODEL.TIMM`` and ``MODEL.FPN``."""
    del input_shape
    options = cfg.MODEL.TIMM

    bottom_up = TimmBackbone(
        name=options.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        out_indices=options.OUT_INDICES,
        norm=options.NORM,
    )
    _load(bottom_up, cfg, options.WEIGHTS, "MODEL.TIMM.WEIGHTS")
    return pyramid(cfg, bottom_up)
