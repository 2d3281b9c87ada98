"""RAMSES2 networks of every kind that can be converted, small and with random weights, and their conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling import build_model
from torch import nn

from ramses_d2.checkpoint.load import load_weights
from ramses_d2.checkpoint.ramses2_weights import import_ramses2
from ramses_d2.config import load_config
from tests.checkpoint.ramses2_reference import Ramses2Reference

ROOT = Path(__file__).parents[2]

# fmt: off
NODES = {f"stages.{i}": f"C{i + 2}" for i in range(4)}
ATTO = {"C2": 40, "C3": 80, "C4": 160, "C5": 320}
PICO = {"C2": 64, "C3": 128, "C4": 256, "C5": 512}
TOY = {"C2": 8, "C3": 12, "C4": 16, "C5": 20}
TOY_BACKBONE = {"backbone": "ConvNeXtV2", "backbone_params": {"depths": [1, 2, 1, 1], "dims": list(TOY.values())}}
PUBLISHED: dict[str, Any] = {
    "load_backbone": False, "backbone_params": {"build_head": True}, "backbone": "convnextv2_femto",
    "backbone_source": "local", "backbone_feature_nodes": NODES, "ncls": 15, "imshape": [2048, 3072, 3],
    "mask_stride": 8, "activation": "GELU", "normalization": "LayerNorm2d", "normalization_kw": {"eps": 1e-06},
    "connection_layers": {"C3": 96, "C4": 192, "C5": 384}, "FPN_filters": 256, "extra_FPN_layers": 1,
    "strides": [8, 16, 32, 64], "head_layers": 4, "head_filters": 256, "kernel_size": 1,
    "grid_sizes": [144, 72, 36, 18], "point_nms": False, "mask_mid_filters": 128, "mask_output_filters": 256,
    "geom_feat_convs": 4, "geom_feats_filters": 128, "mask_output_level": 0, "FPN_output_upscaling": False,
    "sigma_nms": 0.5, "min_area": 0, "use_binary_masks": True, "lossweights": [1.0, 1.0, 1.0],
    "max_pos_samples": 768, "scale_ranges": [[1, 128], [64, 256], [128, 512], [256, 3072]], "offset_factor": 0.75,
}
# What the original's Config class adds to such a file
ADDED = {"cls_factor_layers": 2, "use_geom": True}
SMALL = PUBLISHED | TOY_BACKBONE | {
    "ncls": 3, "imshape": [128, 192, 3], "FPN_filters": 16, "head_layers": 1, "head_filters": 20,
    "mask_mid_filters": 12, "mask_output_filters": 10, "geom_feat_convs": 1, "geom_feats_filters": 14,
}
# fmt: on


def some(layers: dict[str, int], names: str) -> dict[str, int]:
    return {name: layers[name] for name in names.split()}


def small(layers: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    """A config of few channels; ``layers`` are the connected stages."""
    config = SMALL | {"connection_layers": layers or some(TOY, "C3 C4 C5")} | changes
    levels = len(config["connection_layers"]) + config["extra_FPN_layers"]
    finest = 4 << (int(min(config["connection_layers"])[1]) - 2)
    stride = finest << config["mask_output_level"]
    derived = {
        "grid_sizes": [24, 18, 11, 8, 5, 4][:levels],
        "scale_ranges": [[2**i, 2 ** (i + 5)] for i in range(levels)],
        "strides": [finest << i for i in range(levels)],
        "mask_stride": stride // 2 if config["FPN_output_upscaling"] else stride,
    }
    return config | derived | changes


FAMILIES: dict[str, dict[str, Any]] = {
    "C2 to C5, one extra level": small(TOY),
    "C3 to C5, one extra level": small(),
    "no extra level": small(extra_FPN_layers=0),
    "two extra levels": small(some(TOY, "C2 C3 C4"), extra_FPN_layers=2),
    "two levels": small(some(TOY, "C4 C5")),
    "masks on level 1": small(mask_output_level=1),
    "masks on level 2 of 4": small(TOY, mask_output_level=2),
    "enlarged fused map": small(FPN_output_upscaling=True),
    "enlarged P2": small(TOY, FPN_output_upscaling=True),
    "kernels of 3x3": small(kernel_size=3),
    "SiLU": small(activation="SiLU"),
    "ReLU": small(activation="ReLU"),
    "RMSNorm2d": small(normalization="RMSNorm2d", normalization_kw={}),
    "RMSNorm2d, eps": small(normalization="RMSNorm2d", normalization_kw={"eps": 0.3}),
    "LayerNorm2d, default eps": small(normalization_kw={}),
    "LayerNorm2d, eps": small(normalization_kw={"eps": 0.3}),
    "BatchNorm2d": small(normalization="BatchNorm2d", normalization_kw={"eps": 0.1}),
    "no norm": small(normalization="Identity", normalization_kw={}),
    "atto": small(some(ATTO, "C3 C4 C5"), backbone="convnextv2_atto", backbone_params={"drop_path_rate": 0.1}),
    "pico": small(PICO, backbone="convnextv2_pico", backbone_params={"build_head": False, "activation": "GELU"}),
    "deep heads": small(head_layers=2, cls_factor_layers=3, geom_feat_convs=3),
    "one class factor layer": small(cls_factor_layers=1),
    "no layers of its own": small(cls_factor_layers=0, geom_feat_convs=0, head_filters=16, geom_feats_filters=12),
    "soft mass masks": small(use_binary_masks=False),
    "one class": small(ncls=1),
}


def randomise(network: nn.Module) -> None:
    """Leave no tensor at a value that would hide a mistake, such as weights of one and biases of zero."""
    for name, parameter in network.named_parameters():
        if parameter.squeeze().dim() <= 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
        if name.endswith(("geom_final.ops.1.bias", "class_factor_out.ops.1.bias")):
            parameter.data += 1  # most cells above the ReLU
        if name.endswith("kernel_out.ops.1.weight"):
            parameter.data *= 8  # masks that differ
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.3 * torch.randn_like(buffer)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)


def reference_network(config: dict[str, Any]) -> Ramses2Reference:
    network = Ramses2Reference(ADDED | config).eval()
    randomise(network)
    return network


def write_ramses2(folder: Path, network: Ramses2Reference, config: dict[str, Any]) -> Path:
    folder.mkdir()
    torch.save(network.state_dict(), folder / "best-val-loss.pt")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "classes.json").write_text(json.dumps({f"stone {i + 1}": i + 1 for i in range(config["ncls"])}))
    return folder


def convert(folder: Path, output: Path) -> None:
    files = [str(folder / name) for name in ("best-val-loss.pt", "config.json", "classes.json")]
    import_ramses2(*files, str(output))


def load(folder: Path) -> nn.Module:
    model = build_model(load_config(str(folder / "config.yaml"), ["MODEL.DEVICE", "cpu"]))
    load_weights(model, str(folder / "model.pth"))
    return model.eval()


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Of a converted network."""
    return torch.load(folder / "model.pth", weights_only=True)["model"]


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
