"""A pretrained backbone computes what the network it comes from computes, or does not load at all.

No file is downloaded: the generators below write the names and shapes of the published ones, with random values.
"""

from __future__ import annotations

import logging
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from ramses_d2.checkpoint.pretrained import PREFIX, convert_convnextv2, load_backbone
from ramses_d2.errors import RamsesError
from ramses_d2.modeling.backbones import TimmBackbone
from tests.checkpoint.convnextv2_files import (
    ALL,
    ATTO,
    FEMTO,
    KEY,
    TINY,
    assert_same_features,
    build,
    build_published,
    convnextv2,
    official,
    refusal,
    save,
    sparse,
)


def load_official(backbone: nn.Module, tmp_path: Path, state: dict[str, torch.Tensor]) -> nn.Module:
    load_backbone(backbone, save(tmp_path / "official.pt", {"model": state, "epoch": 799}), key=KEY)
    return backbone


@pytest.mark.parametrize("has_head", [True, False], ids=["fine-tuned", "fcmae"])
def test_an_official_file_gives_the_features_of_the_paper(
    tmp_path: Path, has_head: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state, image = official(*FEMTO, has_head), torch.randn(2, 3, 64, 96)
    with caplog.at_level(logging.INFO, "ramses_d2"):
        backbone = load_official(build_published("convnextv2_femto"), tmp_path, state)
    assert_same_features(backbone, convnextv2(state, FEMTO[0], image), image)
    assert [f"all {len(backbone.state_dict())} tensors" in message for message in caplog.messages] == [True]


def test_a_checkpoint_of_fcmae_pretraining_gives_the_same_network(tmp_path: Path) -> None:
    state, image = official(*TINY, head=False), torch.randn(1, 3, 64, 96)
    backbone = load_official(build(), tmp_path, sparse(state))
    assert_same_features(backbone, convnextv2(state, TINY[0], image), image)


def test_later_stages_may_be_left_out_but_must_be_of_this_network(tmp_path: Path) -> None:
    state, image = official(*TINY), torch.randn(1, 3, 64, 64)
    backbone = load_official(build(out_features=("res3", "res4")), tmp_path, state)
    assert_same_features(backbone, convnextv2(state, TINY[0], image)[1:3], image)
    state["stages.3.0.norm.weight"] = torch.ones(39)
    message = refusal(build(out_features=("res2",)), save(tmp_path / "official.pt", {"model": state}))
    assert "stages.3.blocks.0.norm.weight is (39,) instead of (40,)" in message


def test_another_size_is_taken_when_the_config_gives_its_dims(tmp_path: Path) -> None:
    state = official(*TINY)
    backbone = load_official(build("convnextv2_huge"), tmp_path, state)
    assert torch.equal(backbone.network.state_dict()["stem_0.weight"], state["downsample_layers.0.0.weight"])


def test_converted_files_load_as_checkpoints_of_ours(tmp_path: Path) -> None:
    state, image, output = official(*ATTO), torch.randn(1, 3, 64, 64), tmp_path / "new" / "atto.pth"
    line = convert_convnextv2(save(tmp_path / "official.pt", {"model": state}), str(output))
    assert "convnextv2_atto" in line and str(output) in line and os.listdir(output.parent) == ["atto.pth"]
    content = torch.load(output, weights_only=True)["model"]
    assert set(content) == {f"{PREFIX}{key}" for key in build_published("convnextv2_atto").network.state_dict()}
    # the heads of a whole network beside it do not disturb
    path = save(tmp_path / "model_final.pth", {"model": {**content, "backbone.lateral.0.weight": torch.zeros(1)}})
    for source in (str(output), path):
        for features in (ALL, ("res2", "res3")):
            backbone = build(size=ATTO, out_features=features)
            load_backbone(backbone, source, key=KEY)
            assert_same_features(backbone, convnextv2(state, ATTO[0], image)[: len(features)], image)


def test_converting_never_overwrites_unasked(tmp_path: Path) -> None:
    weights, output = save(tmp_path / "official.pt", {"model": official(*ATTO)}), tmp_path / "atto.pth"
    output.write_text("precious")
    with pytest.raises(RamsesError, match="--force"):
        convert_convnextv2(weights, str(output))
    assert output.read_text() == "precious"
    convert_convnextv2(weights, str(output), force=True)
    assert "model" in torch.load(output, weights_only=True)


def test_converting_names_what_it_cannot_convert(tmp_path: Path) -> None:
    atto = official(*ATTO)
    files = {
        "odd": official(*TINY),
        "atto": atto,
        "other": {"weight": torch.zeros(1)},
        "version1": {key: tensor for key, tensor in atto.items() if "grn" not in key},  # it has some of these sizes
    }
    for name, wanted, named in (
        ("odd", None, "published ConvNeXt V2"),
        ("version1", None, "published ConvNeXt V2"),
        ("odd", "convnextv2_femto", "--name says convnextv2_femto"),
        ("atto", "convnextv2_femto", "is convnextv2_atto .*--name says convnextv2_femto"),
        ("other", None, "other.pt holds no ConvNeXt V2"),
        ("atto", "resnet18", "not a ConvNeXt"),
    ):
        with pytest.raises(RamsesError, match=named):
            convert_convnextv2(save(tmp_path / f"{name}.pt", files[name]), str(tmp_path / "out.pth"), name=wanted)
    assert not (tmp_path / "out.pth").exists()


def test_a_file_of_another_size_is_named(tmp_path: Path) -> None:
    for name, state in (("plain", official(*FEMTO)), ("sparse", sparse(official(*FEMTO)))):
        message = refusal(build_published("convnextv2_pico"), save(tmp_path / f"{name}.pt", {"model": state}))
        assert "is convnextv2_femto with depths [2, 2, 6, 2], dims [48, 96, 192, 384]" in message
        assert "MODEL.CONVNEXTV2.NAME says convnextv2_pico" in message


def test_other_stems_and_dims_cannot_take_official_weights(tmp_path: Path) -> None:
    path = save(tmp_path / "official.pt", {"model": official(*TINY)})
    assert "MODEL.CONVNEXTV2.STEM" in refusal(build(stem="overlap"), path)
    assert "dims [8, 16, 32, 64]" in refusal(build(dims=(8, 16, 32, 64)), path)
    ours = {f"{PREFIX}{key}": tensor for key, tensor in build(stem="overlap").network.state_dict().items()}
    backbone = build(stem="overlap")
    load_backbone(backbone, save(tmp_path / "ours.pth", {"model": ours}), key=KEY)
    assert torch.equal(backbone.network.state_dict()["stem_1.weight"], ours[f"{PREFIX}stem_1.weight"])
    assert "a stem of 3x3 px" in refusal(build(), str(tmp_path / "ours.pth"))


def test_missing_unknown_and_misshapen_tensors_are_named(tmp_path: Path) -> None:
    state = official(*TINY)
    del state["stages.2.1.pwconv2.bias"]
    state["stages.2.1.extra"], state["stages.0.0.norm.weight"] = torch.zeros(1), torch.ones(7)
    message = refusal(build(), save(tmp_path / "official.pt", {"model": state}))
    for problem in (
        "stages.2.blocks.1.mlp.fc2.bias is missing",
        "stages.2.blocks.1.extra is unknown",
        "stages.0.blocks.0.norm.weight is (7,) instead of (8,)",
    ):
        assert problem in message
    state["stages.0.0.dwconv.weight"] = torch.tensor(1.0)
    refusal(build(), save(tmp_path / "official.pt", {"model": state}))


def test_what_no_backbone_has_may_be_in_the_file(tmp_path: Path) -> None:
    state = official(*TINY)
    state |= {"head.weight": torch.zeros(21841, 40), "head.bias": torch.zeros(21841)}
    state |= {"decoder.0.pwconv1.weight": torch.zeros(32, 8), "mask_token": torch.zeros(1, 8, 1, 1)}
    backbone = load_official(build(), tmp_path, state)
    assert torch.equal(backbone.network.state_dict()["stem_0.weight"], state["downsample_layers.0.0.weight"])
    del state["mask_token"]
    load_official(build(), tmp_path, state)


def test_the_file_of_another_network_is_refused(tmp_path: Path) -> None:
    mask_rcnn = {
        "backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7),
        "roi_heads.box_predictor.cls_score.weight": torch.zeros(81, 1024),
        "head.norm.weight": torch.zeros(320),
    }
    path = save(tmp_path / "model_final.pkl.pth", {"model": mask_rcnn})
    assert "stem.0.weight is missing" in refusal(build(), path)
    resnet = save(tmp_path / "resnet18.pth", torchvision.models.resnet18().state_dict())
    assert "is missing" in refusal(build(), resnet)
    message = refusal(TimmBackbone(name="resnet34"), resnet, key="MODEL.TIMM.WEIGHTS")
    assert "does not fit resnet34: layer1.2.conv1.weight is missing" in message and "more" in message


class _Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_unreadable_files_are_refused_and_code_never_runs(tmp_path: Path) -> None:
    evidence, state = tmp_path / "it-ran", official(*TINY)
    content = Path(save(tmp_path / "official.pt", {"model": state})).read_bytes()
    for name, damaged in (
        *(("empty.pt", b""), ("short.pt", content[:100]), ("half.pt", content[: len(content) // 2])),
        ("broken.safetensors", content[:100]),
        ("plain.pt", pickle.dumps({"model": state, "args": _Trap(evidence)}, protocol=2)),
    ):
        (tmp_path / name).write_bytes(damaged)
        refusal(build(), str(tmp_path / name))
    for name in ("absent.pt", "absent.safetensors"):
        assert "no such" in refusal(build(), str(tmp_path / name))
    refusal(build(), save(tmp_path / "nothing.pt", {"model": {}}))
    zipped = save(tmp_path / "zipped.pt", {"model": state, "args": _Trap(evidence)})
    refusal(build(), zipped)
    for path in (zipped, str(tmp_path / "plain.pt")):
        with pytest.raises(RamsesError):
            convert_convnextv2(path, str(tmp_path / "out.pth"))
    assert not evidence.exists()
    torch.load(zipped, weights_only=False)  # the trap does work
    assert evidence.exists()


def randomise(network: nn.Module) -> nn.Module:
    """Random values everywhere, norm statistics included, so that no two tensors of a network are equal."""
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return network.eval()


@pytest.mark.parametrize("norm", ["", "FrozenBN", "SyncBN"])
def test_torchvision_files_give_torchvision_features(tmp_path: Path, norm: str) -> None:
    source = randomise(torchvision.models.resnet18())
    state = {key: t for key, t in source.state_dict().items() if norm or "num_batches" not in key}  # old files
    backbone = TimmBackbone(name="resnet18", norm=norm).eval()
    load_backbone(backbone, save(tmp_path / "resnet18.pth", state), key="MODEL.TIMM.WEIGHTS")
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = source.maxpool(source.relu(source.bn1(source.conv1(image))))
        expected = [x := layer(x) for layer in (source.layer1, source.layer2, source.layer3, source.layer4)]
    assert_same_features(backbone, expected, image)


# One of each way in which timm makes feature networks: renamed, kept, own classes, hooks, wrapped
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        *(("convnextv2_atto", ""), ("regnety_002", "FrozenBN"), ("mobilenetv3_small_050", "FrozenBN")),
        *(("efficientnet_lite0", ""), ("hrnet_w18_small", "FrozenBN"), ("cspnext_tiny", "FrozenBN")),
    ],
)
def test_files_of_timm_fill_every_tensor(tmp_path: Path, name: str, norm: str) -> None:
    source = randomise(timm.create_model(name, features_only=True))
    whole = timm.create_model(name, num_classes=7)
    # the feature network is a part of the whole one: give both the same values, in order, where shapes agree
    values = list(source.state_dict().values())
    position = 0
    for tensor in whole.state_dict().values():
        if position < len(values) and tensor.shape == values[position].shape:
            tensor.copy_(values[position])
            position += 1
    assert position == len(values), "the order of the tensors differs, this test cannot tell"
    backbone = TimmBackbone(name=name, norm=norm).eval()
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    load_backbone(backbone, str(tmp_path / "model.safetensors"), key="MODEL.TIMM.WEIGHTS")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = source(image)
    assert_same_features(backbone, maps[-len(backbone.output_shape()) :], image)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hugging Face hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_timm_weights_come_from_the_hub(hub_cache: Path) -> None:
    state, image = official(*TINY), torch.randn(1, 3, 64, 64)
    folder = hub_cache / "models--timm--convnextv2_atto.fcmae_ft_in1k"
    snapshot = folder / "snapshots" / ("0" * 40)
    for path in (folder / "refs", snapshot):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    save_file(state, snapshot / "model.safetensors")
    load_backbone(backbone := build(), "timm://convnextv2_atto.fcmae_ft_in1k", key=KEY)
    assert_same_features(backbone, convnextv2(state, TINY[0], image), image)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("convnextv2_atto.fcmae_ft_in1k", "cannot download"),
        ("convnextv2_femto.fcmae_ft_in1k", "another network than convnextv2_atto"),
        ("convnextv2_atto.nothing", "convnextv2_atto.fcmae, convnextv2_atto.fcmae_ft_in1k"),
        ("", "another network"),
    ],
)
def test_what_timm_cannot_give_is_one_line(hub_cache: Path, name: str, named: str) -> None:
    assert named in refusal(build(), f"timm://{name}")
