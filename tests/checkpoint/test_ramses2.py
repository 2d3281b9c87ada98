"""Converted RAMSES2 networks compute what the original computes, in both directions, for every kind of config."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
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
    convert,
    load,
    reference_network,
    small,
    write_ramses2,
)
from tests.checkpoint.ramses2_reference import Ramses2Reference, RawOutputs
from tests.checkpoint.ramses2_reference_masks import Found, compute_masks

SIZES = [(128, 192), (192, 128), (64, 64)]


class Converted(NamedTuple):
    reference: Ramses2Reference
    model: nn.Module
    folder: Path


def raw_outputs(model: nn.Module, images: torch.Tensor) -> RawOutputs:
    cells, features, geometry, _ = model.raw_outputs(images)
    return RawOutputs(
        classes=cells.class_logits.sigmoid().transpose(1, 2),
        factors=cells.factors[:, None],
        kernels=cells.kernels.transpose(1, 2),
        features=features,
        geometry=geometry[:, None],
    )


def instances(model: nn.Module, raw: RawOutputs, **settings: Any) -> Found:
    found = grid_instances(
        raw.classes[0].T,
        raw.kernels[0].T,
        raw.factors[0, 0],
        raw.features[0],
        raw.geometry[0, 0],
        [],
        dataclasses.replace(model.settings, **settings),
    )
    return Found(found.masks, found.scores, found.classes, found.masses)


@pytest.fixture(scope="module", params=FAMILIES)
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    torch.manual_seed(0)
    config, folder = FAMILIES[request.param], tmp_path_factory.mktemp("family")
    reference = reference_network(config)
    convert(write_ramses2(folder / "ramses2", reference, config), folder / "ours")
    return Converted(reference, load(folder / "ours"), folder)


def largest_difference(ours: RawOutputs, theirs: RawOutputs) -> float:
    assert [a.shape for a in ours] == [b.shape for b in theirs]
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


@torch.no_grad()
def test_raw_outputs_are_the_originals(converted: Converted) -> None:
    for size in SIZES:
        images = torch.rand(2, 3, *size)
        theirs = converted.reference(images)
        assert largest_difference(raw_outputs(converted.model, images), theirs) < 1e-4
        # An output that says the same everywhere would prove nothing
        assert all(float(output.std()) > 1e-3 for output in theirs)


@torch.no_grad()
def test_a_level_of_stride_128(tmp_path: Path) -> None:
    config = small(extra_FPN_layers=2)
    reference = reference_network(config)
    convert(write_ramses2(tmp_path / "ramses2", reference, config), tmp_path / "ours")
    model = load(tmp_path / "ours")
    for size in ((128, 256), (384, 256), (64, 64), (128, 192)):
        images = torch.rand(1, 3, *size)
        assert largest_difference(raw_outputs(model, images), reference(images)) < 1e-4


@torch.no_grad()
def test_instances_are_the_originals(converted: Converted) -> None:
    # In double precision no rounding decides on which side of a threshold a pixel or an overlap lies
    reference, model = copy.deepcopy(converted.reference).double(), copy.deepcopy(converted.model).double()
    images = torch.rand(1, 3, 128, 192, dtype=torch.float64)
    theirs, ours = reference(images), raw_outputs(model, images)
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
        found = instances(
            model, ours, score_thresh=score_threshold - 1e-9, mask_thresh=mask_threshold, min_area=min_area
        )
        assert len(found.scores) > 0 or (min_area, mask_threshold) != (0, 0.5)
        for mine, original in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, original, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_exported_networks_are_the_originals_again(converted: Converted) -> None:
    folder = converted.folder
    ours = folder / "ours"
    export_ramses2(str(ours / "config.yaml"), str(ours / "model.pth"), str(folder / "exported"))
    config = json.loads((folder / "exported/config.json").read_text())
    state = torch.load(folder / "exported/best-val-loss.pt", weights_only=True)
    network = Ramses2Reference(config).eval()
    network.load_state_dict(state)  # strict
    before = converted.reference.state_dict()
    assert all(torch.equal(tensor, before[key]) for key, tensor in state.items())
    images = torch.rand(1, 3, 64, 128)
    assert largest_difference(network(images), converted.reference(images)) == 0

    convert(folder / "exported", folder / "again")
    first, second = (torch.load(f / "model.pth", weights_only=True)["model"] for f in (ours, folder / "again"))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    body = [(f / "config.yaml").read_text() for f in (ours, folder / "again")]
    assert body[0] == body[1]
    assert (ours / "classes.json").read_text() == (folder / "again/classes.json").read_text()


@torch.no_grad()
def test_published_network(tmp_path: Path) -> None:
    reference = reference_network(PUBLISHED)
    state = reference.state_dict()
    assert len(state) == 209 and sum(tensor.numel() for tensor in state.values()) == 15_314_177
    convert(write_ramses2(tmp_path / "ramses2", reference, PUBLISHED), tmp_path / "ours")
    model = load(tmp_path / "ours")
    images = torch.rand(1, 3, 64, 1024)
    assert largest_difference(raw_outputs(model, images), reference(images)) < 1e-4
    # ... and it is configs/ramses_femto.yaml, tensor for tensor
    cfg, femto = (
        load_config(str(path)) for path in (tmp_path / "ours/config.yaml", ROOT / "configs/ramses_femto.yaml")
    )
    assert cfg.MODEL.RAMSES.CLASS_NAMES == [f"stone {i + 1}" for i in range(15)]
    cfg.OUTPUT_DIR = femto.OUTPUT_DIR
    cfg.MODEL.RAMSES.CLASS_NAMES, cfg.MODEL.RAMSES.TEST = [], femto.MODEL.RAMSES.TEST
    cfg.TEST.DETECTIONS_PER_IMAGE = femto.TEST.DETECTIONS_PER_IMAGE
    assert cfg == femto


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}, "epoch": 3},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"model.module.{key}": tensor for key, tensor in state.items()}},
    ],
    ids=["Lightning", "DataParallel", "both"],
)
def test_wrapped_state_dicts(tmp_path: Path, wrap: Callable[[dict[str, torch.Tensor]], object]) -> None:
    folder = write_ramses2(tmp_path / "ramses2", reference := reference_network(small()), small())
    convert(folder, tmp_path / "bare")
    torch.save(wrap(reference.state_dict()), folder / "best-val-loss.pt")
    convert(folder, tmp_path / "wrapped")
    bare, wrapped = (torch.load(tmp_path / f / "model.pth", weights_only=True)["model"] for f in ("bare", "wrapped"))
    assert bare.keys() == wrapped.keys() and all(torch.equal(bare[key], wrapped[key]) for key in bare)


def test_unused_parts_of_the_backbone_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = FAMILIES["two extra levels"]  # C5 is a feature node, but not connected
    reference = reference_network(config)
    folder = write_ramses2(tmp_path / "ramses2", reference, config)
    unused = {"backbone.norm.weight": torch.ones(20), "backbone.head.bias": torch.ones(1000)}
    torch.save(reference.state_dict() | unused, folder / "best-val-loss.pt")
    convert(folder, tmp_path / "ours")
    assert "Left out 16 tensors of the backbone" in caplog.text
    assert "backbone.downsample_layers.3.0.weight" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("FPN.extra_convs.0.ops.1.weight"), "1 missing: FPN.extra_convs.0.ops.1.weight"),
        (lambda state: state.update(queue=torch.ones(1)), "1 unknown: queue"),
        (
            lambda state: state.update({"shared_heads.class_logits.ops.1.bias": torch.ones(4)}),
            r"1 of another shape: shared_heads.class_logits.ops.1.bias \(4,\) instead of \(3,\)",
        ),
        # A reshape must not make anything fit that has as many numbers
        (
            lambda state: state.update({"backbone.stages.0.0.pwconv1.weight": torch.ones(8, 32)}),
            r"backbone.stages.0.0.pwconv1.weight \(8, 32\) instead of \(32, 8\)",
        ),
        (
            lambda state: state.update({"backbone.stages.4.0.norm.weight": torch.ones(8)}),
            "1 unknown: backbone.stages.4",
        ),
        (
            lambda state: state.update({"model.FPN.output_convs.0.ops.1.weight": torch.ones(16, 16, 3, 3)}),
            "FPN.output_convs.0.ops.1.weight twice",
        ),
        (
            lambda state: [state.pop(key) for key in list(state) if "shared_heads" in key],
            "18 missing: .*, .*, .*",
        ),
    ],
)
def test_every_tensor_is_used_once(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    state = reference_network(small()).state_dict()
    folder = write_ramses2(tmp_path / "ramses2", reference_network(small()), small())
    change(state)
    torch.save(dict(state), folder / "best-val-loss.pt")
    with pytest.raises(RamsesError, match=message) as error:
        convert(folder, tmp_path / "ours")
    assert str(folder / "best-val-loss.pt") in str(error.value) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["ramses2"]
