"""The converter's command line, as users call it, with right and with wrong files."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ramses_d2.config import load_config
from tests.checkpoint.ramses2_networks import ADDED, ATTO, NODES, randomise, small, write_ramses2
from tests.checkpoint.ramses2_reference import Ramses2Reference
from tests.tools.command_line import ROOT, error_of, run_process

TOOL = "convert_weights.py"
CONFIG = small()
# Classifier of an official ConvNeXt V2 file
HEAD = [
    ("norm", "weight", (320,)),
    ("norm", "bias", (320,)),
    ("head", "weight", (1000, 320)),
    ("head", "bias", (1000,)),
]


@pytest.fixture
def ramses2(tmp_path: Path) -> Path:
    """Folder of a RAMSES2 network."""
    network = Ramses2Reference(ADDED | CONFIG)
    randomise(network)
    return write_ramses2(tmp_path / "ramses2", network, CONFIG)


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ramses2: Path) -> Callable[..., str]:
    """Run the tool on wrong input: its one line; no file may appear or change."""

    def run(*arguments: str) -> str:
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        line = error_of(TOOL, *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return line

    return run


def run_here(*arguments: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the tool in this process, to success."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    runpy.run_path(str(ROOT / "tools" / TOOL), run_name="__main__")


def test_there_and_back(ramses2: Path, tmp_path: Path) -> None:
    result = run_process(TOOL, "ramses2", "--weights", "ramses2/best-val-loss.pt", "--output", "a/ours", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "wrote 112 tensors and 3 classes to a/ours" in result.stdout
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == sorted(
        ["ours", "classes.json", "config.yaml", "model.pth"]
    )
    first, base = (tmp_path / "a/ours/config.yaml").read_text().splitlines()[:2]
    assert first == "# Converted from RAMSES2's best-val-loss.pt and config.json by tools/convert_weights.py"
    assert base.startswith("_BASE_: ../") and (tmp_path / "a/ours" / base.split()[1]).is_file()
    assert load_config(str(tmp_path / "a/ours/config.yaml")).MODEL.RAMSES.CLASS_NAMES == [
        "stone 1",
        "stone 2",
        "stone 3",
    ]

    back = ["--config", "a/ours/config.yaml", "--weights", "a/ours/model.pth", "--output", "back"]
    result = run_process(TOOL, "export-ramses2", *back, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    before, after = (torch.load(f / "best-val-loss.pt", weights_only=True) for f in (ramses2, tmp_path / "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert json.loads((tmp_path / "back/classes.json").read_text()) == {f"stone {i}": i for i in (1, 2, 3)}


def test_config_alone(ramses2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["config", "--config", "ramses2/config.json", "--output", "configs/mine.yaml"]
    # A backbone file of the machine where it was trained must not be needed here
    (ramses2 / "config.json").write_text(json.dumps(CONFIG | {"load_backbone": "weights/atto.pt"}))
    result = run_process(TOOL, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    cfg = load_config(str(tmp_path / "configs/mine.yaml"))
    assert cfg.MODEL.RAMSES.HEAD.CHANNELS == 20 and cfg.MODEL.CONVNEXTV2.WEIGHTS == "weights/atto.pt"
    assert cfg.MODEL.RAMSES.CLASS_NAMES == ["stone 1", "stone 2", "stone 3"]  # found beside config.json
    message = error_of(TOOL, *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert "configs/mine.yaml exists" in message and "--force" in message
    (ramses2 / "classes.json").unlink()
    run_here(*arguments, "--force", cwd=tmp_path, monkeypatch=monkeypatch)
    assert load_config(str(tmp_path / "configs/mine.yaml")).MODEL.RAMSES.CLASS_NAMES == []
    assert [path.name for path in (tmp_path / "configs").iterdir()] == ["mine.yaml"]


def test_convnextv2(tmp_path: Path) -> None:
    pytest.importorskip("ramses_d2.checkpoint.pretrained")
    layers = {name: ATTO[name] for name in ("C3", "C4", "C5")}
    config = small(layers, backbone="convnextv2_atto", backbone_params={}, backbone_feature_nodes=NODES)
    backbone = Ramses2Reference(ADDED | config).backbone
    randomise(backbone)
    head = {f"{name}.{leaf}": torch.randn(size) for name, leaf, size in HEAD}
    torch.save({"model": backbone.state_dict() | head}, tmp_path / "convnextv2_atto_1k_224_ema.pt")
    arguments = ["--weights", "convnextv2_atto_1k_224_ema.pt", "--output", "atto.pth"]
    result = run_process(TOOL, "convnextv2", *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    converted = torch.load(tmp_path / "atto.pth", weights_only=True)["model"]
    name = "backbone.bottom_up.network.stages_1.blocks.0.mlp.grn.weight"
    assert torch.equal(converted[name], backbone.state_dict()["stages.1.0.grn.gamma"].flatten())


class RunsCode:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


CONVERT = ["ramses2", "--weights", "ramses2/best-val-loss.pt", "--output", "ours"]


def test_weights_of_another_network(ramses2: Path, refused: Callable[..., str]) -> None:
    torch.save({"model": {"roi_heads.mask_head.mask_fcn1.weight": torch.ones(3)}}, ramses2 / "best-val-loss.pt")
    line = refused(*CONVERT)
    assert "ramses2/best-val-loss.pt: not the weights of this config's network" in line
    assert "112 missing: " in line and "1 unknown: roi_heads.mask_head.mask_fcn1.weight" in line


def test_truncated_weights(ramses2: Path, refused: Callable[..., str]) -> None:
    content = (ramses2 / "best-val-loss.pt").read_bytes()
    (ramses2 / "best-val-loss.pt").write_bytes(content[: len(content) // 2])
    assert "ramses2/best-val-loss.pt: not a readable checkpoint" in refused(*CONVERT[:-1], "new/folders/ours")


def test_code_in_a_pickle_is_not_run(ramses2: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    proof = tmp_path / "code_ran"
    torch.save({"state_dict": {"weight": torch.ones(1)}, "extra": RunsCode(proof)}, ramses2 / "best-val-loss.pt")
    assert "could run code, and is not loaded" in refused(*CONVERT)
    assert not proof.exists()
    torch.load(ramses2 / "best-val-loss.pt", weights_only=False)  # the file does what it threatens
    assert proof.exists()


def test_config_of_another_width(ramses2: Path, refused: Callable[..., str]) -> None:
    (ramses2 / "config.json").write_text(json.dumps(CONFIG | {"head_filters": 24}))
    line = refused(*CONVERT)
    assert "of another shape: shared_heads." in line and "instead of (24, 16, 3, 3)" in line


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"Ra": 1, "Rb": 2}, '"ncls" is 3, but 2 classes have names'),
        ({"Ra": 0, "Rb": 1, "Rc": 2}, "ramses2/classes.json: .*each id from 1"),
        ({"Ra": 1, "Rb": 1, "Rc": 2}, "ramses2/classes.json: .*each id from 1"),
        (["Ra", "Rb", "Rc"], "ramses2/classes.json: holds no JSON object"),
    ],
)
def test_wrong_classes(ramses2: Path, refused: Callable[..., str], classes: object, message: str) -> None:
    (ramses2 / "classes.json").write_text(json.dumps(classes))
    assert re.search(message, refused(*CONVERT))


def test_wrong_config(ramses2: Path, refused: Callable[..., str]) -> None:
    (ramses2 / "config.json").write_text("{'ncls': 3}")
    assert "ramses2/config.json: not a" in refused(*CONVERT)
    (ramses2 / "config.json").write_bytes(b"\xff\xfe\x00")
    line = refused("config", "--config", "ramses2/config.json", "--output", "a.yaml")
    assert "ramses2/config.json: not a" in line
    (ramses2 / "config.json").write_text(json.dumps(CONFIG | {"normalization": "GroupNorm"}))
    assert "ramses2/config.json: \"normalization\" is 'GroupNorm'" in refused(*CONVERT)


@pytest.mark.parametrize("name", ["best-val-loss.pt", "config.json", "classes.json"])
def test_missing_files(ramses2: Path, refused: Callable[..., str], name: str) -> None:
    (ramses2 / name).unlink()
    assert f"ramses2/{name}: no such" in refused(*CONVERT)


def test_an_existing_output_is_not_replaced_unasked(
    ramses2: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/precious.txt").write_text("mine")
    assert "ours exists" in refused(*CONVERT)
    assert "ours holds other things than classes.json, config.yaml, model.pth" in refused(*CONVERT, "--force")
    (tmp_path / "ours/precious.txt").rename(tmp_path / "ours/model.pth")
    assert "--force" in refused(*CONVERT)
    run_here(*CONVERT, "--force", cwd=tmp_path, monkeypatch=monkeypatch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "ramses2"]
    assert len(torch.load(tmp_path / "ours/model.pth", weights_only=True)["model"]) == 112


def test_what_ramses2_cannot_express_is_not_exported(refused: Callable[..., str], tmp_path: Path) -> None:
    tiny = str(ROOT / "tests/ramses_tiny.yaml")
    line = refused("export-ramses2", "--config", tiny, "--weights", "none.pth", "--output", "back")
    assert "RAMSES2 cannot express MODEL.RAMSES.MASS.ACTIVATION 'Softplus'" in line


def test_a_wrong_file_as_a_process(ramses2: Path, tmp_path: Path) -> None:
    (ramses2 / "config.json").write_text("no JSON")
    result = run_process(TOOL, *CONVERT, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.strip().splitlines()[-1].startswith("error: ramses2/config.json")
    assert result.stdout == "" and "Traceback" not in result.stderr
