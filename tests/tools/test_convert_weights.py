"""The converter's command line, as users call it, with right and with wrong files."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ramses_d2.config import load_config
from tests.checkpoint.ramses2_networks import (
    ADDED,
    ATTO,
    NODES,
    assert_same_tensors,
    randomise,
    reference_network,
    small,
    some,
    tensors,
    write_ramses2,
)
from tests.checkpoint.ramses2_reference import Ramses2Reference
from tests.tools.command_line import ROOT, error_of, run_process

TOOL = "convert_weights.py"
CONFIG = small()
CONVERT = ["ramses2", "--weights", "ramses2/best-val-loss.pt", "--output", "ours"]
NAMES = ["stone 1", "stone 2", "stone 3"]


@pytest.fixture
def ramses2(tmp_path: Path) -> Path:
    """Folder of a RAMSES2 network."""
    return write_ramses2(tmp_path / "ramses2", reference_network(CONFIG), CONFIG)


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


def test_there_and_back(ramses2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_process(TOOL, "ramses2", "--weights", "ramses2/best-val-loss.pt", "--output", "a/ours", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "112 tensors and 3 classes to a/ours" in result.stdout
    assert sorted(path.name for path in (tmp_path / "a/ours").iterdir()) == ["classes.json", "config.yaml", "model.pth"]
    first, base = (tmp_path / "a/ours/config.yaml").read_text().splitlines()[:2]
    assert first == "# Converted from RAMSES2's best-val-loss.pt and config.json by tools/convert_weights.py"
    assert base.startswith("_BASE_: ../") and (tmp_path / "a/ours" / base.split()[1]).is_file()
    cfg = load_config(str(tmp_path / "a/ours/config.yaml"))
    assert cfg.MODEL.RAMSES.CLASS_NAMES == NAMES and os.listdir(tmp_path / "a") == ["ours"]

    back = ["--config", "a/ours/config.yaml", "--weights", "a/ours/model.pth", "--output", "back"]
    run_here("export-ramses2", *back, cwd=tmp_path, monkeypatch=monkeypatch)
    assert_same_tensors(
        *(torch.load(folder / "best-val-loss.pt", weights_only=True) for folder in (ramses2, tmp_path / "back"))
    )
    assert json.loads((tmp_path / "back/classes.json").read_text()) == {name: i + 1 for i, name in enumerate(NAMES)}


def test_config_alone(ramses2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, output = ["config", "--config", "ramses2/config.json", "--output", "new/mine.yaml"], tmp_path / "new"
    # A backbone file of the machine where it was trained must not be needed here
    (ramses2 / "config.json").write_text(json.dumps(CONFIG | {"load_backbone": "weights/atto.pt"}))
    run_here(*arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    cfg = load_config(str(output / "mine.yaml"))
    assert cfg.MODEL.RAMSES.HEAD.CHANNELS == 20 and cfg.MODEL.CONVNEXTV2.WEIGHTS == "weights/atto.pt"
    assert cfg.MODEL.RAMSES.CLASS_NAMES == NAMES  # found beside config.json
    message = error_of(TOOL, *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    assert "new/mine.yaml" in message and "--force" in message
    (ramses2 / "classes.json").unlink()
    run_here(*arguments, "--force", cwd=tmp_path, monkeypatch=monkeypatch)
    assert load_config(str(output / "mine.yaml")).MODEL.RAMSES.CLASS_NAMES == []
    assert os.listdir(output) == ["mine.yaml"]


def test_convnextv2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = some(ATTO, "C3 C4 C5")
    config = small(layers, backbone="convnextv2_atto", backbone_params={}, backbone_feature_nodes=NODES)
    backbone = Ramses2Reference(ADDED | config).backbone
    randomise(backbone)
    head = {"norm.weight": (320,), "norm.bias": (320,), "head.weight": (1000, 320), "head.bias": (1000,)}
    state = backbone.state_dict() | {name: torch.randn(size) for name, size in head.items()}
    torch.save({"model": state}, tmp_path / "convnextv2_atto_1k_224_ema.pt")
    arguments = ["--weights", "convnextv2_atto_1k_224_ema.pt", "--output", "atto.pth"]
    run_here("convnextv2", *arguments, cwd=tmp_path, monkeypatch=monkeypatch)
    converted = torch.load(tmp_path / "atto.pth", weights_only=True)["model"]
    name = "backbone.bottom_up.network.stages_1.blocks.0.mlp.grn.weight"
    assert torch.equal(converted[name], backbone.state_dict()["stages.1.0.grn.gamma"].flatten())


class RunsCode:
    """Its pickle makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def test_wrong_weights(ramses2: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    path, proof = ramses2 / "best-val-loss.pt", tmp_path / "code_ran"
    content = path.read_bytes()
    torch.save({"model": {"roi_heads.mask_head.mask_fcn1.weight": torch.ones(3)}}, path)
    line = refused(*CONVERT)
    assert "ramses2/best-val-loss.pt: " in line and "112 tensors" in line
    path.write_bytes(content[: len(content) // 2])
    assert "ramses2/best-val-loss.pt: not a readable checkpoint" in refused(*CONVERT[:-1], "new/folders/ours")
    torch.save({"state_dict": {"weight": torch.ones(1)}, "extra": RunsCode(proof)}, path)
    assert "could run code" in refused(*CONVERT) and not proof.exists()
    torch.load(path, weights_only=False)  # the file does what it threatens
    assert proof.exists()


# Content of a file, None = there is none, and what the message must hold besides the file
FILES: list[tuple[str, bytes | None, str]] = [
    *((name, None, "no such") for name in ("best-val-loss.pt", "config.json", "classes.json")),
    ("config.json", b"{'ncls': 3}", "not a JSON file"),
    ("config.json", b"\xff\xfe\x00", "not a JSON file"),
    ("config.json", json.dumps(CONFIG | {"normalization": "GroupNorm"}).encode(), '"normalization"'),
    ("classes.json", b'{"Ra": 0, "Rb": 1, "Rc": 2}', ""),
    ("classes.json", b'{"Ra": 1, "Rb": 1, "Rc": 2}', ""),
    ("classes.json", b"{}", ""),
    ("classes.json", b'["Ra", "Rb", "Rc"]', ""),
]


def test_wrong_files(ramses2: Path, refused: Callable[..., str]) -> None:
    for name, content, named in FILES:
        whole = (ramses2 / name).read_bytes()
        (ramses2 / name).unlink()
        if content is not None:
            (ramses2 / name).write_bytes(content)
        line = refused(*CONVERT)
        assert f"ramses2/{name}: " in line and named in line
        (ramses2 / name).write_bytes(whole)
    (ramses2 / "classes.json").write_text('{"Ra": 1, "Rb": 2}')
    assert '"ncls" is 3, but 2' in refused(*CONVERT)
    (ramses2 / "config.json").write_text(json.dumps(CONFIG | {"head_filters": 24, "ncls": 2}))
    assert "instead of (24, 16, 3, 3)" in refused(*CONVERT)
    tiny = str(ROOT / "tests/ramses_tiny.yaml")  # what RAMSES2 cannot express is not exported
    line = refused("export-ramses2", "--config", tiny, "--weights", "none.pth", "--output", "back")
    assert "MODEL.RAMSES.MASS.ACTIVATION 'Softplus'" in line


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
    assert len(tensors(tmp_path / "ours")) == 112


def test_a_wrong_file_as_a_process(ramses2: Path, tmp_path: Path) -> None:
    (ramses2 / "config.json").write_text("no JSON")
    result = run_process(TOOL, *CONVERT, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr.strip().splitlines()[-1].startswith("error: ramses2/config.json")
    assert result.stdout == "" and "Traceback" not in result.stderr
