"""Pretrained backbones: every tensor comes from the file, or an error says why not.

Files are of ConvNeXt V2's authors (fine-tuned, or of FCMAE pretraining), of timm or torchvision, or ours. All are
brought to the names of the whole timm network first. The builders of backbones with a pyramid are registered here.
"""

from __future__ import annotations

import logging
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

from ramses_d2.checkpoint.load import BACKBONE_PREFIX, mismatches, read_state_dict, shortened
from ramses_d2.errors import RamsesError
from ramses_d2.files import atomic_path, check_output
from ramses_d2.modeling.backbones import ConvNeXtV2, TimmBackbone, pyramid, whole_network

logger = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]
SCHEME = "timm://"
# The network of a backbone in a checkpoint of ours
PREFIX = f"{BACKBONE_PREFIX}network."
# Parts of a classifier, or of self-supervised training, that no backbone has
_NOT_BACKBONE = re.compile(r"(head|norm|fc|decoder|mask_token)")
_COUNTER = "num_batches_tracked"


class Size(NamedTuple):
    """Blocks and channels of the stages of a ConvNeXt."""

    depths: tuple[int, ...]
    dims: tuple[int, ...]

    def __str__(self) -> str:
        return f"depths {list(self.depths)}, dims {list(self.dims)}"


CONVNEXTV2_SIZES = {
    f"convnextv2_{name}": Size(depths, tuple(channels * 2**stage for stage in range(4)))
    for name, depths, channels in (
        ("atto", (2, 2, 6, 2), 40),
        ("femto", (2, 2, 6, 2), 48),
        ("pico", (2, 2, 6, 2), 64),
        ("nano", (2, 2, 8, 2), 80),
        ("tiny", (3, 3, 9, 3), 96),
        ("base", (3, 3, 27, 3), 128),
        ("large", (3, 3, 27, 3), 192),
        ("huge", (3, 3, 27, 3), 352),
    )
}


def load_backbone(bottom_up: nn.Module, source: str, *, key: str) -> None:
    """Load pretrained weights, a file or ``timm://...``, into a :class:`ConvNeXtV2` or :class:`TimmBackbone`.

    Errors name the config ``key``, such as ``MODEL.CONVNEXTV2.WEIGHTS``.
    """
    state = _download(source, bottom_up.timm_name, key) if source.startswith(SCHEME) else _read(source, key)
    count = _fill(bottom_up, state, place=f"{key}: {source}", name_key=f"{key.rpartition('.')[0]}.NAME")
    logger.info("Loaded all %d tensors of the backbone %s from %s", count, bottom_up.timm_name, source)


def convert_convnextv2(weights: str, output: str, *, name: str | None = None, force: bool = False) -> str:
    """Write an official ConvNeXt V2 file as a checkpoint that holds the backbone alone; returns a line to print.

    The network's ``name``, such as ``convnextv2_femto``, is read from the shapes when not given.
    """
    check_output(Path(output), force)
    state = _read(weights, "--weights")
    if name is None:
        dense = _dense_state(_own_part(state))
        size = _size_of(dense)
        name = _name_of(size, dense) if size else ""
        if not name:
            found = f"has {size}, which is not a published ConvNeXt V2" if size else "holds no ConvNeXt V2"
            raise RamsesError(f"--weights: {weights} {found}")
    bottom_up = ConvNeXtV2(name=name, out_features=("res2", "res3", "res4", "res5"))
    count = _fill(bottom_up, state, place=f"--weights: {weights}", name_key="--name")
    tensors = {f"{PREFIX}{key}": tensor for key, tensor in bottom_up.network.state_dict().items()}
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(output)) as unfinished:
        torch.save({"model": tensors}, unfinished)
    return f"wrote {output}: the {count} tensors of {name}"


def _download(source: str, architecture: str, key: str) -> dict[str, torch.Tensor]:
    """Fetch, or take from the cache, the tensors of one of timm's pretrained networks of an architecture."""
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


def _read(path: str, key: str) -> dict[str, torch.Tensor]:
    try:
        if path.endswith(".safetensors") and Path(path).is_file():
            return load_file(path)
        return read_state_dict(path)
    except (RamsesError, SafetensorError) as error:
        raise RamsesError(f"{key}: {error if isinstance(error, RamsesError) else f'{path}: {error}'}") from error


def _own_part(state: State) -> dict[str, torch.Tensor]:
    """The backbone's tensors of a checkpoint of ours; all tensors of any other file."""
    own = {key.removeprefix(PREFIX): tensor for key, tensor in state.items() if key.startswith(PREFIX)}
    return own or dict(state)


def _dense_state(state: State) -> dict[str, torch.Tensor]:
    """The tensors of an FCMAE pretraining checkpoint as those of the dense network; other files stay as they are.

    MinkowskiEngine wraps torch's layers, and stores biases as (1, C), which timm's filter reshapes. Besides the encoder
    there is a decoder, the part that paints the hidden patches again.
    """
    if not any(key.startswith(("encoder.", "decoder.", "mask_token")) or key.endswith(".kernel") for key in state):
        return dict(state)
    dense = {}
    for name, tensor in state.items():
        if name.startswith(("decoder.", "mask_token", "proj.", "pred.")):
            continue
        key = name.removeprefix("encoder.").replace(".ln.", ".").replace(".linear.", ".")
        if key.endswith(".kernel"):
            key, tensor = f"{key.removesuffix('.kernel')}.weight", _dense_kernel(tensor)
        dense[key] = tensor
    return dense


def _dense_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """(k * k, C) of a depthwise convolution -> (C, 1, k, k), or (k * k, C in, C out) -> (C out, C in, k, k).

    The column of the kernel is the slow part of the first index.
    """
    side = isqrt(kernel.shape[0])
    if side * side != kernel.shape[0] or kernel.ndim not in (2, 3):
        return kernel  # not one of these: the comparison of shapes will say so
    columns_rows = kernel.unflatten(0, (side, side))
    if kernel.ndim == 2:
        columns_rows = columns_rows.unsqueeze(2)
    return columns_rows.permute(3, 2, 1, 0).contiguous()


def whole_names(keys: Iterable[str], whole: Collection[str]) -> dict[str, str]:
    """Name in a feature network -> name in the whole network, or the name itself when ``whole`` has none like it."""
    return {key: next((name for name in _readings(key) if name in whole), key) for key in keys}


def _readings(key: str) -> Iterator[str]:
    """What a name of one of timm's feature networks may have been in the whole one, the likeliest first."""
    yield key
    first, _, rest = key.partition(".")
    if first in ("body", "model"):
        yield rest
    for position, letter in enumerate(first):
        if letter == "_":
            yield f"{first[:position]}.{first[position + 1 :]}.{rest}"


def _size_of(state: State) -> Size | None:
    """The size of the ConvNeXt whose tensors these are, in official names or timm's; None when it is none."""
    blocks: dict[int, dict[int, int]] = {}
    for key, tensor in state.items():
        # The one depthwise convolution of a block
        match = re.fullmatch(r"stages[._](\d+)\.(?:blocks\.)?(\d+)\.(?:dwconv|conv_dw)\.weight", key)
        if match and tensor.ndim == 4:
            blocks.setdefault(int(match[1]), {})[int(match[2])] = tensor.shape[0]
    stages = [blocks[stage] for stage in sorted(blocks)]
    return Size(tuple(map(len, stages)), tuple(max(stage.values()) for stage in stages)) if stages else None


def _name_of(size: Size, keys: Iterable[str]) -> str:
    """timm's name for a ConvNeXt V2 of this size; "" when it is none of the eight published ones."""
    if not any("grn" in key for key in keys):  # ConvNeXt V1 has some of the same sizes
        return ""
    return next((name for name, published in CONVNEXTV2_SIZES.items() if published == size), "")


def _fill(bottom_up: nn.Module, state: State, *, place: str, name_key: str) -> int:
    """Load tensors of any supported naming into a backbone, and count them; errors begin with ``place``."""
    whole = whole_network(bottom_up.timm_name, bottom_up.timm_arguments)
    expected, network = whole.state_dict(), bottom_up.network.state_dict()
    names = whole_names(network, expected)
    own = _dense_state(_own_part(state))
    readings = whole_names(own, expected)
    own = {readings[key]: tensor for key, tensor in own.items()}
    _check_size(own, expected, place, f"{name_key} says {bottom_up.timm_name}")
    own = _with_timm_names(own, names.values(), whole)
    # What the backbone needs must be there; of what it does not need, all but the classifier must be of this network
    classifier = whole.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([classifier] if isinstance(classifier, str) else classifier))
    needed = {names[key]: tensor.shape for key, tensor in network.items()}
    there = {k: t for k, t in own.items() if k in needed or not (k.startswith(heads) or _NOT_BACKBONE.match(k))}
    wanted = {key: shape for key, shape in needed.items() if key in there or not key.endswith(_COUNTER)}
    problems = mismatches(there, {key: expected[key].shape for key in there if key in expected} | wanted)
    if problems:
        raise RamsesError(f"{place} does not fit {bottom_up.timm_name}: {shortened(problems)}")
    tensors = {key: own[name] for key, name in names.items() if name in own}
    bottom_up.network.load_state_dict({**network, **tensors})
    return len(tensors)


def _with_timm_names(state: State, needed: Iterable[str], whole: nn.Module) -> State:
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


def _check_size(state: State, expected: State, place: str, wish: str) -> None:
    """Say which ConvNeXt the file has when it is clearly another one; all names and shapes are compared later."""
    found, wanted = _size_of(state), _size_of(expected)
    if found is None or wanted is None:
        return
    if any(a != b for pair in zip(found, wanted, strict=True) for a, b in zip(*pair, strict=False)):
        raise RamsesError(f"{place} is {_name_of(found, state) or 'a network'} with {found}, {wish} with {wanted}")
    stem = state.get("stem.0.weight", state.get("downsample_layers.0.0.weight"))
    side = expected["stem.0.weight"].shape[-1] if "stem.0.weight" in expected else 0
    if stem is not None and side and stem.shape[-1] != side:
        raise RamsesError(
            f"{place} has a stem of {stem.shape[-1]}x{stem.shape[-1]} px, this network one of {side}x{side}: change "
            f'MODEL.CONVNEXTV2.STEM, the published weights need "patch"'
        )


def _with_pyramid(cfg: CfgNode, bottom_up: Backbone, node: str) -> Backbone:
    """Load pretrained weights, unless ``MODEL.WEIGHTS`` brings those of the whole network, and build the pyramid."""
    source = cfg.MODEL[node].WEIGHTS
    if source and not cfg.MODEL.WEIGHTS:
        load_backbone(bottom_up, source, key=f"MODEL.{node}.WEIGHTS")
    return pyramid(cfg, bottom_up)


@BACKBONE_REGISTRY.register()
def build_convnextv2_fpn_backbone(cfg: CfgNode, _: ShapeSpec) -> Backbone:
    """ConvNeXt V2 with a pyramid, from ``MODEL.CONVNEXTV2`` and ``MODEL.FPN``."""
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
    return _with_pyramid(cfg, bottom_up, "CONVNEXTV2")


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, _: ShapeSpec) -> Backbone:
    """Any timm network that gives feature maps, with a pyramid, from ``MODEL.TIMM`` and ``MODEL.FPN``."""
    options = cfg.MODEL.TIMM
    features, maps = cfg.MODEL.FPN.IN_FEATURES, options.OUT_INDICES
    bottom_up = TimmBackbone(name=options.NAME, out_features=features, out_indices=maps, norm=options.NORM)
    return _with_pyramid(cfg, bottom_up, "TIMM")
