"""What a training does beside its steps: evaluations and what follows from them, averaged weights, the NaN guard.

Checkpoints are written before the evaluation of their step, so that a failing evaluation costs no training. What
follows from an evaluation (best checkpoint, stopping) is therefore not in the checkpoint of that step: a resumed run
makes up for it before its first step, see :meth:`Evaluation.is_due`.
"""

from __future__ import annotations

import importlib.util
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.hooks import RemovableHandle

from ramses_d2.checkpoint.load import load_weights, read_checkpoint
from ramses_d2.data.preview import contact_sheet
from ramses_d2.engine.checkpointer import BEST, WeightsOnly
from ramses_d2.engine.launch import share_buffers
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation.masses import best_scale, training_truth
from ramses_d2.modeling.mass import ArealDensity

logger = logging.getLogger(__name__)

EMA = "ema/"  # what the names of the averaged weights' results begin with


class EndOfTraining(BaseException):
    """Leaves the training loop. Not an ``Exception``, which Detectron2 would log as a failure."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside a DistributedDataParallel."""
    return getattr(model, "module", model)


def config_below(cfg: CfgNode, folder: str) -> CfgNode:
    """The same config, not frozen, with the output in a folder of OUTPUT_DIR."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / folder)
    return cfg


class Evaluation(hooks.EvalHook):
    """Detectron2's hook, which gives the results to the hooks after it, on every process, and evaluates no step twice.

    ``evaluate`` returns nested metrics on the main process. Where there are several test sets, a metric without the
    name of one is that of ``first_test_set``. ``evaluated`` counts the steps done at the latest evaluation, 0 = none.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any] | None], first_test_set: str = "") -> None:
        super().__init__(period, lambda: self._evaluate(evaluate))
        self._first_test_set = first_test_set
        self.evaluated = 0
        self.results: dict[str, float] = {}

    def _evaluate(self, evaluate: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        results = evaluate()
        self.results = comm.all_gather(flatten_results_dict(results or {}))[0]
        return results

    def _do_eval(self) -> None:
        if not self.is_new():
            super()._do_eval()
            self.evaluated = self._steps_done()

    def _steps_done(self) -> int:
        # In after_train the trainer has counted the last step already
        return min(self.trainer.iter + 1, self.trainer.max_iter)

    def is_new(self) -> bool:
        """In ``after_step`` of a later hook: whether this step has been evaluated."""
        return self.evaluated == self._steps_done()

    def is_due(self) -> bool:
        """Whether a resumed training, before its first step, has the evaluation of its last one still to do."""
        start = self.trainer.start_iter
        due = self._period > 0 and start > 0 and start % self._period == 0 and start < self.trainer.max_iter
        return due and self.evaluated != start

    def metric(self, name: str) -> float:
        """A result of the latest evaluation, such as "segm/AP" or "ema/segm/AP", the same on every process."""
        prefix = EMA if name.startswith(EMA) else ""
        for candidate in (name, f"{prefix}{self._first_test_set}/{name.removeprefix(prefix)}"):
            if candidate in self.results:
                return float(self.results[candidate])
        known = ", ".join(sorted(self.results)) or "nothing"
        raise RamsesError(f'TEST.BEST_METRIC is "{name}", but an evaluation gives {known}')

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self.evaluated, "results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.evaluated, self.results = state_dict["evaluated"], state_dict["results"]


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation so far in ``model_best.pth``, across resumes too.

    Detectron2's own hook forgets the best score on resume, its file becomes the last checkpoint, and it only warns of a
    metric that does not exist. Here the score is in the file itself: a checkpoint of the training is written before
    the evaluation of its step and would not know it. Stands after the evaluation, on the main process.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        model: nn.Module,
        output_dir: str,
        *,
        metric: str,
        mode: str,
        ema: EmaWeights | None,
    ) -> None:
        self._evaluation = evaluation
        averaged = ema is not None and metric.startswith(EMA)
        self._checkpointer = WeightsOnly(ema.module if averaged else model, output_dir)
        self._path = Path(output_dir) / BEST
        self._metric, self._mode, self._sign = metric, mode, 1.0 if mode == "max" else -1.0
        self.best_metric: float | None = None
        self.best_steps: int | None = None
        self._compared = 0  # steps of the evaluation that was compared last

    def before_train(self) -> None:
        if self.trainer.start_iter == 0 or not self._path.is_file():
            return
        try:
            best = read_checkpoint(self._path)
        except RamsesError as error:
            logger.warning("%s: the next evaluation replaces it", error)
            return
        # Scores of another metric do not compare
        if "value" in best and (best.get("metric"), best.get("mode")) == (self._metric, self._mode):
            self.best_metric, self.best_steps = best["value"], best["iteration"] + 1
            self._compared = self._evaluation.evaluated

    def after_step(self) -> None:
        if self._evaluation.is_new():
            self._compare(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._compare(self.trainer.max_iter)

    def _compare(self, steps: int) -> None:
        if steps == self._compared:
            return
        self._compared = steps
        value = self._evaluation.metric(self._metric)
        # Nothing to measure, or done again by a resumed run
        if not math.isfinite(value) or (value, steps) == (self.best_metric, self.best_steps):
            return
        if self.best_metric is not None and self._sign * (value - self.best_metric) <= 0:
            best = (self.best_metric, self.best_steps)
            logger.info("%s is %.4g, not better than the %.4g after %d steps", self._metric, value, *best)
            return
        score = {"metric": self._metric, "mode": self._mode, "value": value}
        self._checkpointer.save(self._path.stem, iteration=steps - 1, **score)
        self.best_metric, self.best_steps = value, steps
        logger.info("%s is %.4g, the best so far: saved as %s", self._metric, value, BEST)


class EarlyStopping(HookBase):
    """Ends the training, on every process at the same step, when a metric has not improved for some evaluations.

    An improvement must be larger than ``min_delta``, in units of the metric.
    """

    def __init__(self, evaluation: Evaluation, *, metric: str, mode: str, patience: int, min_delta: float) -> None:
        self._evaluation = evaluation
        self._metric, self._mode, self._sign = metric, mode, 1.0 if mode == "max" else -1.0
        self._patience, self._min_delta = patience, min_delta
        self._best, self._best_step, self._waited = math.nan, 0, 0

    def before_train(self) -> None:
        if self._waited >= self._patience:  # resumed after it had stopped
            self._stop()

    def after_step(self) -> None:
        if not self._evaluation.is_new():
            return
        value = self._evaluation.metric(self._metric)
        # The first number is better than none; NaN (nothing to measure) never is
        if self._sign * (value - self._best) > self._min_delta or (math.isnan(self._best) and not math.isnan(value)):
            self._best, self._best_step, self._waited = value, self.trainer.iter + 1, 0
        else:
            self._waited += 1
        if self._waited >= self._patience:
            self._stop()

    def _stop(self) -> None:
        # What only improved by less than MIN_DELTA does not count, so this need not be the best there was
        by, which = (f" by more than {self._min_delta:g}", "compared with") if self._min_delta else ("", "the best was")
        best = "" if math.isnan(self._best) else f"; {which} {self._best:.4g} after {self._best_step} steps"
        self.trainer.request_end(
            f"{self._metric} has not improved{by} for {self._waited} evaluations (SOLVER.EARLY_STOPPING){best}"
        )

    def state_dict(self) -> dict[str, Any]:
        by = {"metric": self._metric, "mode": self._mode}
        return by | {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        by = (state_dict.get("metric", self._metric), state_dict.get("mode", self._mode))
        if by == (self._metric, self._mode):  # numbers of another metric do not compare
            self._best, self._best_step = state_dict["best"], state_dict["best_step"]
            self._waited = state_dict["waited"]


class MetricsWriter(hooks.PeriodicWriter):
    """Detectron2's writer, which also writes after every evaluation: it would keep only the latest of a period."""

    def __init__(self, writers: Sequence[EventWriter], evaluation: Evaluation) -> None:
        super().__init__(writers, period=20)
        self._evaluation = evaluation

    def after_step(self) -> None:
        if self._evaluation.is_new():
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


def final_test(cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, nn.Module], dict[str, Any]]) -> dict[str, Any]:
    """Evaluate ``DATASETS.FINAL_TEST`` into ``OUTPUT_DIR/test`` by ``test``, if there is any; all processes call it.

    The weights are those of ``model_best.pth``, if evaluations during the training have chosen any, else those the
    model has. It has them back in the end.
    """
    if not cfg.DATASETS.FINAL_TEST:
        return {}
    comm.synchronize()  # the main process may still be writing the best weights
    best, network, last = Path(cfg.OUTPUT_DIR) / BEST, unwrapped(model), None
    # Another machine need not see the folder: the main process decides, and has the weights
    if cfg.DATASETS.TEST and comm.all_gather(best.is_file())[0]:
        last = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
        if comm.is_main_process():
            load_weights(network, str(best))
        share_buffers(network.state_dict())
    cfg = config_below(cfg, "test")
    cfg.DATASETS.TEST = cfg.DATASETS.FINAL_TEST
    weights = "the last weights" if last is None else best
    logger.info("Final test of %s on %s, files in %s", weights, ", ".join(cfg.DATASETS.TEST), cfg.OUTPUT_DIR)
    try:
        return test(cfg, model)
    finally:
        if last is not None:
            network.load_state_dict(last)


class EmaWeights(ModelEmaV3):
    """timm's moving average of a network's parameters in ``module``, with a warm-up of its own; buffers are copied.

    Update ``t`` (from 0) keeps ``min(decay, (1 + t) / (10 + t))`` of the average, so that the random first weights are
    forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(unwrapped(model), decay, exclude_buffers=True)
        self.updates = 0

    def get_decay(self, step: int | None = None) -> float:
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def update(self, model: nn.Module, step: int | None = None) -> None:
        super().update(unwrapped(model), step)
        self.updates += 1

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {"updates": self.updates, "average": dict(self.module.state_dict())}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> None:
        self.updates = state_dict["updates"]
        self.module.load_state_dict(state_dict["average"])


class EmaUpdate(HookBase):
    """Averages after every step, and keeps the average in ``model_final_ema.pth``; stands before the checkpointer."""

    def __init__(self, ema: EmaWeights, model: nn.Module, output_dir: str) -> None:
        self._ema, self._model, self._output_dir = ema, model, output_dir

    def before_train(self) -> None:
        if self._ema.updates == 0:  # not resumed: weights may have been loaded since
            self._ema.set(unwrapped(self._model))

    def after_step(self) -> None:
        self._ema.update(self._model)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            WeightsOnly(self._ema.module, self._output_dir).save("model_final_ema")


class NanGuard:
    """Watches a network, not yet wrapped for several processes, and its optimizer, which hold it.

    Detectron2 looks at the losses after the backward pass, and on the main process alone: the others would go on.
    Under mixed precision a gradient that overflows is normal, and its step is skipped by the scaler; the optimizer is
    then not called, and neither is this.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._images: list[str] = []
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        model.register_forward_pre_hook(self._remember)
        model.register_forward_hook(self._check_losses)
        handle = optimizer.register_step_pre_hook(self._check_gradients)
        # Before clipping: by a common norm it would make every gradient NaN, by value an infinite one finite
        handle.hooks_dict_ref().move_to_end(handle.id, last=False)

    def error(self, what: str, images: list[str] | None = None) -> RamsesError:
        """The line that ends the training: what is not finite, found by this process alone unless there are images."""
        rank = f", process {comm.get_rank()}" if images is None and comm.get_world_size() > 1 else ""
        return RamsesError(
            f"iteration {get_event_storage().iter}{rank}: {what}, with the images {', '.join(images or self._images)}; "
            f"the training stops, its weights and checkpoints are untouched: look at these images, lower "
            f"SOLVER.BASE_LR or set SOLVER.CLIP_GRADIENTS, and continue with --resume"
        )

    def _remember(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        if model.training:
            self._images = [str(item.get("file_name", item.get("image_id", "?"))) for item in inputs[0]]

    def _check_losses(self, model: nn.Module, inputs: tuple[Any, ...], losses: Any) -> None:
        if not (model.training and isinstance(losses, Mapping) and losses):
            return
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        bad = [f"{name} is {value}" for name, value in zip(losses, values, strict=True) if not math.isfinite(value)]
        if bad:
            raise self.error(", ".join(bad))
        total = sum(losses.values()).detach().item()  # in the losses' own precision, as the step would have it
        if not math.isfinite(total):
            raise self.error(f"the total loss is {total}")

    def _check_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # One number for all of them, so that a GPU is waited for once
        if not parameters or torch.stack([p.grad.sum().float() for p in parameters]).sum().isfinite():
            return
        bad = [self._names.get(id(p), "a parameter") for p in parameters if not p.grad.isfinite().all()]
        if bad:
            # They are averages over all processes, each of which comes to this line: any of the images may be it
            images = [image for of_rank in comm.all_gather(self._images) for image in of_rank]
            raise self.error(f"the gradients of {len(bad)} tensors are not finite ({', '.join(bad[:3])})", images)


def fit_densities(dataset_dicts: Sequence[dict[str, Any]], num_classes: int) -> np.ndarray:
    """(C,) g/mm2: the areal density of each class with the least MAPE over the weighed particles, repeats once.

    A class without weighed particles has that of all; where nothing is weighed at all, they are 0.
    """
    class_ids, areas, masses = training_truth(dataset_dicts)
    if not len(masses):
        return np.zeros(num_classes)
    densities = np.full(num_classes, best_scale(areas, masses, 1.0))
    for class_id in np.unique(class_ids):
        own = class_ids == class_id
        densities[class_id] = best_scale(areas[own], masses[own], 1.0)
    return densities


class FitArealDensity(HookBase):
    """Fits the densities of a network before the first step; a resumed training has them from its checkpoint."""

    def __init__(self, density: ArealDensity, dataset_names: Sequence[str]) -> None:
        self._density, self._dataset_names = density, dataset_names

    def before_train(self) -> None:
        if self.trainer.start_iter > 0:
            return
        dataset_dicts = [dataset_dict for name in self._dataset_names for dataset_dict in DatasetCatalog.get(name)]
        densities = fit_densities(dataset_dicts, len(self._density.grams_per_mm2))
        self._density.set_densities(densities)
        if not self._density.is_known:
            logger.warning("The training data has no weighed particle of known resolution: no masses are predicted")
            return
        names = MetadataCatalog.get(self._dataset_names[0]).thing_classes
        listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, densities, strict=True))
        logger.info("Areal densities, g/mm2: %s", listed)


def has_tensorboard() -> bool:
    """Whether images and numbers can be written for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


class TrainingImages(HookBase):
    """Stores what the network is fed, augmentation and masks included, every ``period`` steps as "train/picture".

    Networks of Detectron2 do so by themselves, with boxes; their training items have no label map.
    """

    def __init__(self, model: nn.Module, period: int, class_names: Sequence[str], image_format: str) -> None:
        self._model, self._period = model, period
        self._class_names, self._format = class_names, image_format
        self._handle: RemovableHandle | None = None

    def before_train(self) -> None:
        self._handle = self._model.register_forward_pre_hook(self._store)

    def after_train(self) -> None:
        if self._handle is not None:  # None where the training failed before its first step
            self._handle.remove()

    def _store(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        if not model.training or self.trainer.iter % self._period:
            return
        items = [item for item in arguments[0][:1] if "label_map" in item]
        if items:
            image = contact_sheet(items, self._class_names, self._format)
            self.trainer.storage.put_image("train/picture", np.ascontiguousarray(image.transpose(2, 0, 1)))
