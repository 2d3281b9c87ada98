"""Converted RAMSES2 networks compute what the original computes, in both directions, for every kind of config."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from ramses_d2.checkpoint.ramses2_weights import export_ramses2
from ramses_d2.config import load_config
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.postprocess import grid_instances
from tests.checkpoint.ramses2_networks import (
    FAMILIES,
    PUBLISHED,
    ROOT,
    assert_same_tensors,
    convert,
    load,
    reference_network,
    small,
    tensors,
    write_ramses2,
)
from tests.checkpoint.ramses2_reference import Ramses2Reference, RawOutputs
from tests.checkpoint.ramses2_reference_masks import Found, compute_masks

State = dict[str, torch.Tensor]


class Converted(NamedTuple):
    reference: Ramses2Reference
    model: nn.Module
    folder: Path


def both(folder: Path, config: dict[str, Any]) -> Converted:
    """A RAMSES2 network and what the converter makes of it."""
    reference = reference_network(config)
    convert(write_ramses2(folder / "ramses2", reference, config), folder / "ours")
    return Converted(reference, load(folder / "ours"), folder)


@pytest.fixture(scope="module", params=FAMILIES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(0)
    return both(tmp_path_factory.mktemp("family"), FAMILIES[request.param])


def raw_outputs(model: nn.Module, images: torch.Tensor) -> RawOutputs:
    cells, features, geometry, _ = model.raw_outputs(images)
    return RawOutputs(
        classes=cells.class_logits.sigmoid().transpose(1, 2),
        factors=cells.factors[:, None],
        kernels=cells.kernels.transpose(1, 2),
        features=features,
        geometry=geometry[:, None],
    )


def largest_difference(ours: RawOutputs, theirs: RawOutputs) -> float:
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_raw_outputs_are_the_originals(converted: Converted) -> None:
    for size in ((128, 192), (192, 128), (64, 64)):
        images = torch.rand(2, 3, *size)
        theirs = converted.reference(images)
        assert largest_difference(raw_outputs(converted.model, images), theirs) < 1e-4
        # An output that says the same everywhere would prove nothing
        assert all(float(output.std()) > 1e-3 for output in theirs)


@torch.no_grad()
def test_a_level_of_stride_128(tmp_path: Path) -> None:
    reference, model, _ = both(tmp_path, small(extra_FPN_layers=2))
    for size in ((128, 256), (384, 256), (64, 64), (128, 192)):
        images = torch.rand(1, 3, *size)
        assert largest_difference(raw_outputs(model, images), reference(images)) < 1e-4


@torch.no_grad()
def test_instances_are_the_originals(converted: Converted) -> None:
    # In double precision no rounding decides on which side of a threshold a pixel or an overlap lies
    reference, model = copy.deepcopy(converted.reference).double(), copy.deepcopy(converted.model).double()
    images = torch.rand(1, 3, 128, 192, dtype=torch.float64)
    theirs, ours = reference(images), raw_outputs(model, images)
    outputs = ours.classes[0].T, ours.kernels[0].T, ours.factors[0, 0], ours.features[0], ours.geometry[0, 0]
    scores = theirs.classes[0].amax(0).sort().values
    score_threshold = float(scores[-min(40, len(scores))])
    for min_area, mask_threshold in ((0, 0.5), (20, 0.5), (0, 0.8)):
        everything = compute_masks(
            theirs,
            cls_threshold=score_threshold,
            mask_threshold=mask_threshold,
            min_area=min_area,
            use_binary_masks=reference.config["use_binary_masks"],
        )
        # The original keeps masks without a pixel when there is no smallest area; here there are none
        filled = (everything.masks >= mask_threshold).flatten(1).any(1)
        expected = Found(*(part[filled] for part in everything))
        settings = {"score_thresh": score_threshold - 1e-9, "mask_thresh": mask_threshold, "min_area": min_area}
        found = grid_instances(*outputs, [], dataclasses.replace(model.settings, **settings))
        assert len(found.scores) > 0 or (min_area, mask_threshold) != (0, 0.5)
        for mine, original in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, original, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_exported_networks_are_the_originals_again(converted: Converted) -> None:
    folder, ours = converted.folder, converted.folder / "ours"
    export_ramses2(str(ours / "config.yaml"), str(ours / "model.pth"), str(folder / "exported"))
    state = torch.load(folder / "exported/best-val-loss.pt", weights_only=True)
    network = Ramses2Reference(json.loads((folder / "exported/config.json").read_text())).eval()
    network.load_state_dict(state)  # strict
    before = converted.reference.state_dict()
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())
    images = torch.rand(1, 3, 64, 128)
    assert largest_difference(network(images), converted.reference(images)) == 0

    convert(folder / "exported", folder / "again")
    assert_same_tensors(tensors(ours), tensors(folder / "again"))
    for name in ("config.yaml", "classes.json"):
        assert (ours / name).read_text() == (folder / "again" / name).read_text()


@torch.no_grad()
def test_published_network(tmp_path: Path) -> None:
    reference, model, _ = both(tmp_path, PUBLISHED)
    state = reference.state_dict()
    assert len(state) == 209 and sum(tensor.numel() for tensor in state.values()) == 15_314_177
    images = torch.rand(1, 3, 64, 1024)
    assert largest_difference(raw_outputs(model, images), reference(images)) < 1e-4
    # ... and it is configs/ramses_femto.yaml, tensor for tensor
    paths = tmp_path / "ours/config.yaml", ROOT / "configs/ramses_femto.yaml"
    cfg, femto = (load_config(str(path)) for path in paths)
    assert cfg.MODEL.RAMSES.CLASS_NAMES == [f"stone {i + 1}" for i in range(15)]
    cfg.OUTPUT_DIR = femto.OUTPUT_DIR
    cfg.MODEL.RAMSES.CLASS_NAMES, cfg.MODEL.RAMSES.TEST = [], femto.MODEL.RAMSES.TEST
    cfg.TEST.DETECTIONS_PER_IMAGE = femto.TEST.DETECTIONS_PER_IMAGE
    assert cfg == femto


@pytest.mark.parametrize("prefix", ["model.", "module.", "model.module."])
def test_wrapped_state_dicts(tmp_path: Path, prefix: str) -> None:
    """Of Lightning, DataParallel and both."""
    folder = both(tmp_path, small()).folder / "ramses2"
    state = torch.load(folder / "best-val-loss.pt", weights_only=True)
    wrapped = {f"{prefix}{key}": tensor for key, tensor in state.items()}
    torch.save({"state_dict": wrapped, "epoch": 3} if "model" in prefix else wrapped, folder / "best-val-loss.pt")
    convert(folder, tmp_path / "wrapped")
    assert_same_tensors(tensors(tmp_path / "ours"), tensors(tmp_path / "wrapped"))


def test_unused_parts_of_the_backbone_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = FAMILIES["two extra levels"]  # C5 is a feature node, but not connected
    reference = reference_network(config)
    folder = write_ramses2(tmp_path / "ramses2", reference, config)
    unused = {"backbone.norm.weight": torch.ones(20), "backbone.head.bias": torch.ones(1000)}
    torch.save(reference.state_dict() | unused, folder / "best-val-loss.pt")
    convert(folder, tmp_path / "ours")
    assert "16 tensors" in caplog.text and "backbone.downsample_layers.3.0.weight" in caplog.text


LOGITS, LINEAR, OUTPUT = (
    *("shared_heads.class_logits.ops.1.bias", "backbone.stages.0.0.pwconv1.weight"),
    "FPN.output_convs.0.ops.1.weight",
)
# A tensor to put, or None to take one or several away, and what the message must hold
CHANGES: list[tuple[str, tuple[int, ...] | None, str]] = [
    ("FPN.extra_convs.0.ops.1.weight", None, "FPN.extra_convs.0.ops.1.weight"),
    ("shared_heads", None, "and 15 more"),
    ("queue", (1,), "queue"),
    (LOGITS, (4,), "(4,) instead of (3,)"),
    # A reshape must not make anything fit that has as many numbers
    (LINEAR, (8, 32), "(8, 32) instead of (32, 8)"),
    ("backbone.stages.4.0.norm.weight", (8,), "backbone.stages.4.0.norm.weight"),
    (f"model.{OUTPUT}", (16, 16, 3, 3), f"{OUTPUT} twice"),
]


@pytest.mark.parametrize(("name", "shape", "named"), CHANGES, ids=[change[0] for change in CHANGES])
def test_every_tensor_is_used_once(tmp_path: Path, name: str, shape: tuple[int, ...] | None, named: str) -> None:
    reference = reference_network(small())
    folder = write_ramses2(tmp_path / "ramses2", reference, small())
    state = dict(reference.state_dict())
    if shape is None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(name)}
    else:
        state[name] = torch.ones(shape)
    torch.save(state, folder / "best-val-loss.pt")
    with pytest.raises(RamsesError) as error:
        convert(folder, tmp_path / "ours")
    message = str(error.value)
    assert name.removeprefix("model.") in message and named in message and "\n" not in message
    assert message.startswith(str(folder / "best-val-loss.pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["ramses2"]
