"""What a training leaves behind to look at: tables, curves, metrics.json, images, and the final test."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from PIL import Image

from ramses_d2.engine import trainer as trainer_module
from ramses_d2.engine.curves import StatsTable, draw_curves, forget_steps
from ramses_d2.engine.trainer import RamsesTrainer
from ramses_d2.errors import RamsesError
from tests.engine.conftest import Results, train, trainer_of

Config = Callable[..., CfgNode]


def table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t")


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of losses after every step, so that a short training has some."""
    rows = trainer_module.LossRows
    monkeypatch.setattr(trainer_module, "LossRows", lambda *arguments: rows(*arguments, period=1))


def metrics_by_step(steps: int) -> Results:
    """Stands for an evaluation, where its numbers do not matter."""
    return {"segm": {"AP": 100.0 / steps, "AP-brick": float("nan")}, "mass": {"MAPE": 7.0 * steps}}


@pytest.mark.usefixtures("every_step")
def test_tables_and_curves_of_a_training(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(config("SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 2))
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


def test_rows_of_losses_are_of_every_twentieth_step_and_the_last(config: Config, tmp_path: Path) -> None:
    train(config("SOLVER.MAX_ITER", 22, "SOLVER.CHECKPOINT_PERIOD", 30, test=[]))
    assert table(tmp_path / "out/train_stats.tsv")["iteration"].tolist() == [20, 22]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(
    ("cut", "in_evaluation", "rows", "begin"),
    # The checkpoint of step 3 is resumed, step 4 is done again and listed once; or its evaluation is still to do
    [(4, None, [1, 2, 3, 4], 3), (None, 3, [1, 2, 3], 3)],
)
def test_a_resumed_training_continues_its_tables(
    config: Config, tmp_path: Path, cut: int | None, in_evaluation: int | None, rows: list[int], begin: int
) -> None:
    options, script = ("SOLVER.MAX_ITER", 5, "TEST.EVAL_PERIOD", 3, "SOLVER.CHECKPOINT_PERIOD", 3), metrics_by_step
    out, whole = tmp_path / "out", tmp_path / "whole"
    train(config(*options, output="whole"), script=script)
    train(config(*options), script=script, cut=cut, cut_in_evaluation=in_evaluation)
    assert table(out / "train_stats.tsv")["iteration"].tolist() == rows
    assert train(config(*options), script=script, resume=True).start_iter == begin
    for name, columns in (("train_stats.tsv", ["lr", "epoch"]), ("valid_stats.tsv", ["segm/AP", "mass/MAPE"])):
        expected, found = table(whole / name), table(out / name)
        assert found["iteration"].tolist() == expected["iteration"].tolist() and list(found) == list(expected)
        np.testing.assert_allclose(found[columns], expected[columns], rtol=1e-5)
    lines = (out / "valid_stats.tsv").read_text().splitlines()
    assert lines[:2] == ["iteration\tepoch\tsegm/AP\tsegm/AP-brick\tmass/MAPE", "3\t1.2\t33.3333\tnan\t21"]


def test_a_fault_after_an_evaluation_gives_no_row_of_another_step(config: Config, tmp_path: Path) -> None:
    """The best checkpoint finds no such metric."""
    with pytest.raises(RamsesError, match="segm/AP"):
        train(config("TEST.EVAL_PERIOD", 2), script=lambda _: {"bbox": {"AP": 1.0}})
    assert not (tmp_path / "out/valid_stats.tsv").exists()


def test_a_fault_before_the_first_step_is_the_one_that_is_shown(config: Config, monkeypatch: Any) -> None:
    def fault(*_: object) -> None:
        raise RamsesError("no such thing")

    trainer = trainer_of(config("VIS_PERIOD", 1))
    monkeypatch.setattr(trainer.all_hooks[0], "before_train", fault)
    with pytest.raises(RamsesError, match="no such thing"):
        trainer.train()


def test_averages_and_several_test_sets_are_in_the_tables(
    folder: Path, tiny_folder: Any, config: Config, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cfg = config("SOLVER.MAX_ITER", 1, "SOLVER.EMA_DECAY", 0.9, test=[folder, tiny_folder(name="other")])
    train(cfg)
    metrics = table(out / "valid_stats.tsv")
    assert metrics["iteration"].tolist() == [1] and (out / "curves.png").is_file()
    assert {f"{prefix}{uri}/segm/AP" for prefix in ("", "ema/") for uri in cfg.DATASETS.TEST} <= set(metrics)


class Images(HookBase):
    """Keeps the images that a step stores for the writers."""

    def __init__(self, trainer: RamsesTrainer) -> None:
        self.found: dict[str, torch.Tensor] = {}
        trainer.register_hooks([self])

    def before_train(self) -> None:
        put = self.trainer.storage.put_image

        def keep(name: str, image: Any) -> None:
            self.found[name] = torch.as_tensor(image)
            put(name, image)

        self.trainer.storage.put_image = keep


def test_tensorboard_gets_annotated_images(config: Config, tmp_path: Path) -> None:
    trainer = trainer_of(config("SOLVER.MAX_ITER", 2, "VIS_PERIOD", 2, "SOLVER.EMA_DECAY", 0.9))
    images = Images(trainer)
    trainer.train()
    valid = [name for name in images.found if name.startswith("valid/")]
    assert valid == [f"valid/demo/img{index}" for index in (0, 1, 3, 4)]  # once, not for the averages again
    assert set(images.found) - set(valid) == {"train/picture"}
    for image in images.found.values():
        assert image.dtype == torch.uint8 and image.shape[0] == 3 and max(image.shape) > 400
        assert image.float().std() > 5
    assert list((tmp_path / "out").glob("events.*"))


def test_without_tensorboard_all_else_is_written(config: Config, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    trainer = trainer_of(config("SOLVER.MAX_ITER", 1, "VIS_PERIOD", 1))
    images = Images(trainer)
    trainer.train()
    out = tmp_path / "out"
    assert not images.found and not list(out.glob("events.*"))
    assert (out / "curves.png").is_file() and (out / "metrics.json").is_file()


def test_the_final_test_is_of_the_best_weights(tiny_folder: Any, config: Config, tmp_path: Path, caplog: Any) -> None:
    uri, out = f"ramses://{tiny_folder(name='kept')}", tmp_path / "out"
    sums = []

    def script(steps: int) -> Results:
        sums.append(sum(p.detach().abs().sum().item() for p in trainer.model.parameters()))
        return metrics_by_step(steps)

    class Spoil(HookBase):
        """Best weights that differ from the last ones."""

        def after_train(self) -> None:
            content = torch.load(out / "model_best.pth", weights_only=False)
            for tensor in content["model"].values():
                tensor.mul_(0)
            torch.save(content, out / "model_best.pth")

    trainer = trainer_of(config("SOLVER.MAX_ITER", 2, "DATASETS.FINAL_TEST", f"('{uri}',)"), script=script)
    trainer.register_hooks([Spoil()])
    with caplog.at_level(logging.INFO):
        trainer.train()
    assert trainer.seen == [(2, "out"), (2, "test")] and sums[1] == 0 < sums[0]
    assert sum(p.abs().sum() for p in trainer.model.parameters()) > 0  # the last weights are back
    assert f"Final test of {out}/model_best.pth on {uri}" in caplog.text
    assert table(out / "valid_stats.tsv")["iteration"].tolist() == [2]


def test_final_tests_without_a_test_set_are_of_the_last_weights(
    folder: Path, tiny_folder: Any, config: Config, tmp_path: Path
) -> None:
    uris, out = (f"ramses://{folder}", f"ramses://{tiny_folder(name='kept')}"), tmp_path / "out"
    cfg = config("SOLVER.MAX_ITER", 1, "DATASETS.FINAL_TEST", str(uris), test=[])
    (out / "model_best.pth").write_bytes(b"of an earlier training")
    train(cfg)
    stats = [json.loads(path.read_text()) for path in out.glob("test/*/test_stats.json")]
    assert {found["dataset"] for found in stats} == set(uris) and {found["pictures"] for found in stats} == {2, 5}
    assert not (out / "valid_stats.tsv").exists()


# ---- the table by itself


@pytest.fixture
def stats(tmp_path: Path) -> StatsTable:
    """Three rows, of steps 20, 40 and 60."""
    stats = StatsTable(tmp_path / "stats.tsv")
    stats.start(0)
    for steps in (20, 40, 60):
        stats.append({"iteration": steps, "loss": steps / 3})
    return stats


def test_a_new_column_leaves_the_others_where_they_are(stats: StatsTable, tmp_path: Path) -> None:
    assert stats.series("loss").to_dict() == {20: 6.66667, 40: 13.3333, 60: 20}
    stats.append({"iteration": 80, "loss": 1.0, "AP-red\tbrick": 5})
    stats.append({"iteration": 100, "AP-red\tbrick": float("nan")})
    lines = (tmp_path / "stats.tsv").read_text().splitlines()
    rows = ["20\t6.66667\t", "40\t13.3333\t", "60\t20\t", "80\t1\t5", "100\t\tnan"]
    assert lines == ['iteration\tloss\t"AP-red\tbrick"', *rows]
    assert stats.series("AP-red\tbrick").to_dict() == {80: 5.0}
    again = StatsTable(tmp_path / "stats.tsv")
    again.start(100)
    assert (tmp_path / "stats.tsv").read_text().splitlines() == lines


@pytest.mark.parametrize(
    ("torn", "start", "added", "expected"),
    [
        *[(torn, 1000, 100, [20, 40, 60, 100]) for torn in ("", "8", "80\t", "80\t1.2", "80\t1.2\t7\n", "x\t3\n")],
        ("", 40, 60, [20, 40, 60]),  # a resumed run keeps what its checkpoint knows
        ("", 39, 60, [20, 60]),
        ("", 60, 60, [20, 40, 60]),  # a row of the same steps is replaced
        ("", 60, 40, [20, 40]),
        ("", 0, 20, [20]),  # a new training
        ("something else\n", 60, 80, [80]),  # another file
        ("nothing", 60, 80, [80]),
    ],
)
def test_rows_of_an_earlier_run(
    stats: StatsTable, tmp_path: Path, torn: str, start: int, added: int, expected: list[int]
) -> None:
    path = tmp_path / "stats.tsv"
    text = "" if torn == "nothing" else torn if torn.startswith("something") else path.read_text() + torn
    path.write_text(text)
    again = StatsTable(path)
    again.start(start)
    assert path.exists() == (len(expected) > 1)
    again.append({"iteration": added, "loss": 9})
    found = table(path)
    assert found["iteration"].tolist() == expected and found["loss"].iloc[-1] == 9


# ---- metrics.json


def test_steps_that_run_again_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    forget_steps(path, 4)
    assert not path.exists()
    kept, late = '{"iteration": 1}\n{"iteration": 3}\n', '{"iteration": 2, "segm/AP": 1.0}\n'
    path.write_text(kept + '{"iteration": 4}\n' + late + '{"iteration": 5, "los')
    with path.open("a") as writer:  # Detectron2's, which is open already
        forget_steps(path, 4)
        writer.write('{"iteration": 4, "again": 1}\n')
    assert path.read_text() == kept + late + '{"iteration": 4, "again": 1}\n'
    path.write_text('{"iteration": 1}\n[]\n3\n{}\n')
    for _ in range(2):
        forget_steps(path, 4)
        assert path.read_text() == '{"iteration": 1}\n'


def test_the_last_evaluation_of_a_run_that_goes_on(tmp_path: Path) -> None:
    """Detectron2 counts it as the step after the last one. Of a step that failed, other values may be there."""
    path = tmp_path / "metrics.json"
    kept = '{"iteration": 3, "total_loss": 1.0}\n{"iteration": 4, "ema/segm/AP": 1.0}\n'
    path.write_text(
        kept + '{"iteration": 4, "ramses/positive_cells": 1}\n{"iteration": 4, "segm/AP": 1, "total_loss": 1}\n'
    )
    forget_steps(path, 4, longer=True)
    assert path.read_text() == kept
    forget_steps(path, 4)  # it is done again
    assert path.read_text() == kept.splitlines(keepends=True)[0]


def test_curves_without_anything_and_with_wild_values(tmp_path: Path) -> None:
    training, evaluations = StatsTable(tmp_path / "a.tsv"), StatsTable(tmp_path / "b.tsv")
    empty = draw_curves(training, evaluations)
    titles = ["losses (median of 20 steps)", "average precision, %", "mass errors, % (up to 100)", "learning rate"]
    assert [axes.get_title() for axes in empty.axes] == titles
    assert all(axes.texts[0].get_text() == "nothing yet" for axes in empty.axes)
    for steps in (10, 20):
        training.append({"iteration": steps, "loss_cls": 3.0, "total_loss": 0.0, "lr": 0.1})
        evaluations.append({"iteration": steps, "a://b#valid/segm/AP": 7.0, f"ema/{'x' * 30}/segm/AP": 8.0})
        evaluations.append({"iteration": steps + 1, "mass/MAPE": 1e9, "mass/TotalError": float("nan")})
    figure = draw_curves(training, evaluations)
    figure.savefig(tmp_path / "curves.png")
    labels = [text.get_text() for axes in figure.axes for text in axes.get_legend().get_texts()]
    precision = ["a://b#valid mask AP", f"…{'x' * 22} mask AP"]
    assert labels == ["total loss", "loss cls", *precision, "mean error of a particle (MAPE)", "lr"]
    losses, _, masses, _ = figure.axes
    assert losses.get_yscale() == "log" and masses.get_ylim()[1] == 105
    assert losses.lines[0].get_xdata().tolist() == [10, 20] and losses.lines[1].get_ydata().tolist() == [3.0, 3.0]
