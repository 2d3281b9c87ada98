"""What a training leaves behind to look at: tables, curves, images, and the final test."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.engine import HookBase
from PIL import Image

from ramses_d2.data.catalog import register
from ramses_d2.engine import trainer as trainer_module
from ramses_d2.engine.curves import StatsTable, draw_curves
from ramses_d2.engine.hooks import BestCheckpoint
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.test_trainer import (
    config,  # noqa: F401
    folder,  # noqa: F401
    start,  # noqa: F401
    train,  # noqa: F401
)


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


class PowerCut(HookBase):
    def __init__(self, step: int) -> None:
        self._step = step

    def before_step(self) -> None:
        if self.trainer.iter == self._step:
            raise InterruptedError


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of losses after every step, so that a short training has some."""
    rows = trainer_module.LossRows
    monkeypatch.setattr(trainer_module, "LossRows", lambda *arguments: rows(*arguments, period=1))


@pytest.mark.usefixtures("every_step")
def test_tables_and_curves_of_a_training(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    train(config(folder, out, "SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 2))
    losses = table(out / "train_stats.tsv")
    assert losses["iteration"].tolist() == [1, 2, 3, 4, 5]
    assert losses["epoch"].tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])  # 2 of 5 images a step
    parts = losses[["loss_cls", "loss_mask", "loss_mass"]].sum(axis=1)
    assert losses["total_loss"][0] == pytest.approx(parts[0], rel=1e-4)
    assert (losses["lr"] > 0).all() and (losses["seconds"][2:] > 0).all() and losses["data_seconds"].notna().all()

    metrics = table(out / "valid_stats.tsv")
    assert metrics["iteration"].tolist() == [2, 4, 5]
    assert {"segm/AP", "bbox/AP50", "segm/AR@1000", "segm/AP-brick", "mass/MAPE", "mass/TotalError"} <= set(metrics)
    last = json.loads((out / "evaluation.json").read_text())["results"]
    assert metrics["segm/AP"].iloc[-1] == pytest.approx(last["segm"]["AP"], rel=1e-5)
    with Image.open(out / "curves.png") as image:
        assert image.size == (1300, 850)
    assert not list(out.glob("*unfinished*"))


@pytest.mark.usefixtures("every_step")
def test_a_resumed_training_continues_its_tables(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    """Killed after step 4: the checkpoint of step 3 is resumed, step 4 is done again and listed once."""
    options = ("SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 3)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(config(folder, whole, *options))
    trainer = start(config(folder, parts, *options))
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([PowerCut(4)])
    with pytest.raises(InterruptedError):
        trainer.train()
    assert table(parts / "train_stats.tsv")["iteration"].tolist() == [1, 2, 3, 4]
    train(config(folder, parts, *options), resume=True)
    for name, columns in (("train_stats.tsv", ["lr", "epoch"]), ("valid_stats.tsv", ["segm/AP", "mass/MAPE"])):
        expected, found = table(whole / name), table(parts / name)
        assert found["iteration"].tolist() == expected["iteration"].tolist()
        assert list(found) == list(expected)
        np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-5)


@pytest.mark.usefixtures("every_step")
def test_killed_in_an_evaluation_no_row_is_missing(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its step has a checkpoint, and is not done again."""
    out = tmp_path / "out"
    cfg = config(folder, out, "TEST.EVAL_PERIOD", 2)

    def cut(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as killed, pytest.raises(InterruptedError):
        killed.setattr(RamsesTrainer, "_evaluate", cut)
        train(cfg)
    assert train(cfg, resume=True).start_iter == 2
    assert table(out / "train_stats.tsv")["iteration"].tolist() == [1, 2, 3, 4]
    assert table(out / "valid_stats.tsv")["iteration"].tolist() == [2, 4]


def test_a_fault_after_an_evaluation_gives_no_row_of_another_step(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(hook: BestCheckpoint) -> None:
        if hook._evaluation.is_new():
            raise RamsesError("no room")

    monkeypatch.setattr(BestCheckpoint, "after_step", fail)
    with pytest.raises(RamsesError, match="no room"):
        train(config(folder, tmp_path / "out", "TEST.EVAL_PERIOD", 2))
    assert not (tmp_path / "out/valid_stats.tsv").exists()


def test_a_fault_before_the_first_step_is_the_one_that_is_shown(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    class Fault(HookBase):
        def before_train(self) -> None:
            raise RamsesError("no such thing")

    trainer = start(config(folder, tmp_path / "out", "VIS_PERIOD", 1))
    trainer.resume_or_load(resume=False)
    hooks = trainer._hooks
    trainer.register_hooks([Fault()])
    hooks.insert(0, hooks.pop())
    with pytest.raises(RamsesError, match="no such thing"):
        trainer.train()


def test_averaged_weights_and_several_test_sets_are_in_the_tables(
    folder: Path,  # noqa: F811
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    uris = (f"ramses://{folder}", f"ramses://{tiny_folder(name='other')}")
    register(uris[1])
    out = tmp_path / "out"
    options = ("SOLVER.MAX_ITER", 1, "SOLVER.EMA_DECAY", 0.9, "DATASETS.TEST", str(uris))
    train(config(folder, out, *options))
    metrics = table(out / "valid_stats.tsv")
    assert metrics["iteration"].tolist() == [1]
    assert {f"{prefix}{uri}/segm/AP" for prefix in ("", "ema/") for uri in uris} <= set(metrics)
    assert (out / "curves.png").is_file()


def stored(trainer: RamsesTrainer) -> dict[str, torch.Tensor]:
    """Images of the training that no writer has taken."""
    return {name: torch.as_tensor(image) for name, image, _ in trainer.storage._vis_data}


def test_tensorboard_gets_annotated_images(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trainer_module, "default_writers", lambda *_: [])  # TensorBoard's would take them
    cfg = config(folder, tmp_path / "out", "SOLVER.MAX_ITER", 2, "VIS_PERIOD", 2, "SOLVER.EMA_DECAY", 0.9)
    images = stored(train(cfg))
    valid = [name for name in images if name.startswith("valid/")]
    assert valid == [f"valid/demo/img{index}" for index in (0, 1, 3, 4)]  # once, not for the averages again
    assert set(images) - set(valid) == {"train/picture"}
    for image in images.values():
        assert image.dtype == torch.uint8 and image.shape[0] == 3 and max(image.shape) > 400
        assert image.float().std() > 5


def test_without_tensorboard_all_else_is_written(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    cfg = config(folder, tmp_path / "out", "SOLVER.MAX_ITER", 1, "VIS_PERIOD", 1)
    trainer = train(cfg)
    assert [type(writer).__name__ for writer in trainer.build_writers()] == ["CommonMetricPrinter", "JSONWriter"]
    assert not stored(trainer)  # nobody would take them
    out = tmp_path / "out"
    assert (out / "curves.png").is_file() and (out / "metrics.json").is_file()
    assert not list(out.glob("events.*"))


def test_the_final_test_is_of_the_best_weights(
    folder: Path,  # noqa: F811
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = f"ramses://{tiny_folder(name='kept')}"
    register(uri)
    out = tmp_path / "out"
    cfg = config(folder, out, "SOLVER.MAX_ITER", 2, "DATASETS.FINAL_TEST", f"('{uri}',)")

    def spoil(self: object) -> None:
        """Best weights that differ from the last ones."""
        content = torch.load(out / "model_best.pth", weights_only=False)
        for tensor in content["model"].values():
            tensor.mul_(0)
        torch.save(content, out / "model_best.pth")

    class Spoil(HookBase):
        after_train = spoil

    judged = []
    test = RamsesTrainer.test.__func__

    def spy(cls: type, cfg: object, model: torch.nn.Module, *rest: object) -> dict:
        judged.append((tuple(cfg.DATASETS.TEST), sum(p.detach().abs().sum().item() for p in model.parameters())))
        return test(cls, cfg, model, *rest)

    monkeypatch.setattr(RamsesTrainer, "test", classmethod(spy))
    trainer = start(cfg)
    trainer.resume_or_load(resume=False)
    trainer.register_hooks([Spoil()])
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert [names for names, _ in judged] == [tuple(cfg.DATASETS.TEST), (uri,)]
    assert judged[1][1] == 0 < judged[0][1]
    assert sum(p.abs().sum() for p in trainer.model.parameters()) > 0  # the last weights are back
    assert f"Final test of {out}/model_best.pth on {uri}" in caplog.text
    statistics = json.loads((out / "test/test_stats.json").read_text())
    assert statistics["dataset"] == uri and statistics["pictures"] == 2
    assert json.loads((out / "test_stats.json").read_text())["dataset"] == cfg.DATASETS.TEST[0]
    assert table(out / "valid_stats.tsv")["iteration"].tolist() == [2]


def test_several_final_tests_without_a_test_set_are_of_the_last_weights(
    folder: Path,  # noqa: F811
    tiny_folder: Callable[..., Path],
    tmp_path: Path,
) -> None:
    uris = (f"ramses://{folder}", f"ramses://{tiny_folder(name='kept')}")
    register(uris[1])
    out = tmp_path / "out"
    (out).mkdir()
    (out / "model_best.pth").write_bytes(b"of an earlier training")
    train(config(folder, out, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()", "DATASETS.FINAL_TEST", str(uris)))
    assert len(list(out.glob("test/*/test_stats.json"))) == 2
    assert not (out / "valid_stats.tsv").exists()


def test_curves_without_anything_and_with_wild_values(tmp_path: Path) -> None:
    training, evaluations = StatsTable(tmp_path / "a.tsv"), StatsTable(tmp_path / "b.tsv")
    titles = [axes.get_title() for axes in draw_curves(training, evaluations).axes]
    assert titles == [
        "losses (median of 20 steps)",
        "average precision, %",
        "mass errors, % (up to 100)",
        "learning rate",
    ]
    for steps in (10, 20):
        training.append({"iteration": steps, "total_loss": 0.0, "loss_cls": 3.0, "lr": 0.1})
        evaluations.append({"iteration": steps, "a://b#valid/segm/AP": 7.0, "ema/a://b#valid/segm/AP": 8.0})
        evaluations.append({"iteration": steps + 1, "mass/MAPE": 1e9, "mass/TotalError": float("nan")})
    figure = draw_curves(training, evaluations)
    figure.savefig(tmp_path / "curves.png")
    labels = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    assert labels == [
        "total loss",
        "loss cls",
        "a://b#valid mask AP",
        "ema/a://b#valid mask AP",
        "mean error of a particle (MAPE)",
        "lr",
    ]
