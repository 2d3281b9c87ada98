"""The evaluation that comes last: of data that training never looked at, with the best weights."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage
from torch import nn
from torch.utils.hooks import RemovableHandle

from ramses_d2.checkpoint.load import load_weights, read_checkpoint
from ramses_d2.data.preview import contact_sheet
from ramses_d2.engine.checkpointer import BEST, WeightsOnly
from ramses_d2.engine.launch import share_buffers
from ramses_d2.engine.solver import PLATEAU, TRAINING_LOSS, PlateauScheduler
from ramses_d2.errors import RamsesError
from ramses_d2.evaluation.masses import best_scale, training_truth
from ramses_d2.modeling.mass import ArealDensity

logger = logging.getLogger(__name__)


class EndOfTraining(BaseException):
    """Leaves the training loop. No ``Exception``, which Detectron2 would log as a failure."""


class EarlyStopping(HookBase):
    """Ends the training when a metric has not improved for some evaluations; the same step on every process.

    Args:
        evaluation: whose results.
        metric: name of one of them.
        mode: "max" or "min" is better.
        patience: evaluations without improvement, 1 or more.
        min_delta: an improvement must be larger than this, in units of the metric.

    Raises:
        RamsesError: a setting out of range.
    """

    def __init__(self, evaluation: Evaluation, *, metric: str, mode: str, patience: int, min_delta: float) -> None:
        if mode not in ("max", "min"):
            raise RamsesError(f'TEST.BEST_MODE is "{mode}", use max or min')
        if patience < 1 or min_delta < 0:
            raise RamsesError(
                f"SOLVER.EARLY_STOPPING: PATIENCE is {patience} and MIN_DELTA {min_delta}, use 0 or more for both"
            )
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
        value = self._evaluation.metric(self._metric, "TEST.BEST_METRIC")
        # The first number is better than none; NaN (nothing to measure) never is
        if self._sign * (value - self._best) > self._min_delta or (math.isnan(self._best) and not math.isnan(value)):
            self._best, self._best_step, self._waited = value, self.trainer.iter + 1, 0
        else:
            self._waited += 1
        if self._waited >= self._patience:
            self._stop()

    def _stop(self) -> None:
        # What only improved by less than MIN_DELTA does not count, so this need not be the best there was
        by = f" by more than {self._min_delta:g}" if self._min_delta else ""
        which = "compared with" if self._min_delta else "the best was"
        best = "" if math.isnan(self._best) else f"; {which} {self._best:.4g} after {self._best_step} steps"
        self.trainer.request_end(
            f"{self._metric} has not improved{by} for {self._waited} evaluations (SOLVER.EARLY_STOPPING){best}"
        )

    def state_dict(self) -> dict[str, Any]:
        judged = {"metric": self._metric, "mode": self._mode}
        return judged | {"best": self._best, "best_step": self._best_step, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        judged_by = (state_dict.get("metric", self._metric), state_dict.get("mode", self._mode))
        if judged_by != (self._metric, self._mode):  # numbers that do not compare
            return
        self._best, self._best_step = state_dict["best"], state_dict["best_step"]
        self._waited = state_dict["waited"]


T = TypeVar("T")
# What the names of the averaged weights' results begin with
EMA = "ema/"
# What is in the name of every result, and of no figure of a training step
RESULT = re.compile(r"(^|/)(segm|bbox|mass)/")


class Evaluation(hooks.EvalHook):
    """Detectron2's hook, which gives the results to the hooks after it, on every process, and evaluates no step twice.

    Checkpoints are written before the evaluation of their step, so that a failing evaluation costs no training. What
    follows from an evaluation (best checkpoint, learning rate, stopping) is therefore not in the checkpoint of that
    step: a resumed run makes up for it before its first step, see :meth:`is_due`.

    Args:
        period: steps between evaluations, 0 = only after training.
        evaluate: returns nested metrics on the main process.
        first_test_set: its metrics are meant when a name fits none and there are several test sets.
    """

    def __init__(self, period: int, evaluate: Callable[[], dict[str, Any] | None], first_test_set: str = "") -> None:
        super().__init__(period, lambda: self._evaluate(evaluate))
        self._first_test_set = first_test_set
        self._evaluated = 0
        self.results: dict[str, float] = {}

    def _evaluate(self, evaluate: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        results = evaluate()
        self.results = self.of_main_process(flatten_results_dict(results or {}))
        return results

    def _do_eval(self) -> None:
        if self._steps_done() != self._evaluated:
            super()._do_eval()
            self._evaluated = self._steps_done()

    def _steps_done(self) -> int:
        # In after_train the trainer has counted the last step already
        return min(self.trainer.iter + 1, self.trainer.max_iter)

    def is_due(self) -> bool:
        """Whether a resumed training, before its first step, has the evaluation of its last one still to do."""
        start = self.trainer.start_iter
        due = self._period > 0 and start > 0 and start % self._period == 0 and start < self.trainer.max_iter
        return due and self._evaluated != start

    def is_new(self) -> bool:
        """In ``after_step`` of a later hook: whether this step has been evaluated."""
        return self._evaluated == self._steps_done()

    @property
    def evaluated(self) -> int:
        """Steps done at the latest evaluation, 0 = none yet."""
        return self._evaluated

    @staticmethod
    def of_main_process(value: T) -> T:
        """The main process's value, on every process; all of them must call it."""
        return comm.all_gather(value)[0]

    def metric(self, name: str, key: str) -> float:
        """A result of the latest evaluation, the same on every process.

        Args:
            name: such as "segm/AP" or "ema/segm/AP".
            key: the config key that names it, for the error.

        Raises:
            RamsesError: no such result.
        """
        results = self.results
        prefix = EMA if name.startswith(EMA) else ""
        first = f"{prefix}{self._first_test_set}/{name.removeprefix(prefix)}"
        for candidate in (name, first):
            if candidate in results:
                return float(results[candidate])
        raise RamsesError(f'{key} is "{name}", but an evaluation gives {", ".join(sorted(results)) or "nothing"}')

    def state_dict(self) -> dict[str, Any]:
        return {"evaluated": self._evaluated, "results": self.results}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._evaluated, self.results = state_dict["evaluated"], state_dict["results"]


class NanGuard:
    """Watches a network and its optimizer; they hold it, nobody else has to.

    Detectron2 looks at the losses after the backward pass, and on the main process alone: the others would go on.
    Under mixed precision a gradient that overflows is normal, and its step is skipped by the scaler; the optimizer is
    then not called, and neither is this.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hook into both.

        Args:
            model: a Detectron2 network, which returns its losses in training; not yet wrapped for several processes.
            optimizer: of its parameters.
        """
        self._images: list[str] = []
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        model.register_forward_pre_hook(self._remember)
        model.register_forward_hook(self._check_losses)
        handle = optimizer.register_step_pre_hook(self._check_gradients)
        # Before clipping: by a common norm it would make every gradient NaN, by value an infinite one finite
        handle.hooks_dict_ref().move_to_end(handle.id, last=False)

    def error(self, what: str) -> RamsesError:
        """The line that ends the training, for what this process alone has found.

        Args:
            what: is not finite.
        """
        rank = f", process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
        return self._line(rank, what, self._images)

    @staticmethod
    def _line(rank: str, what: str, images: list[str]) -> RamsesError:
        return RamsesError(
            f"iteration {get_event_storage().iter}{rank}: {what}, with the images {', '.join(images)}; the "
            f"training stops, its weights and checkpoints are untouched: look at these images, lower SOLVER.BASE_LR "
            f"or set SOLVER.CLIP_GRADIENTS, and continue with --resume"
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
            what = f"the gradients of {len(bad)} tensors are not finite ({', '.join(bad[:3])})"
            raise self._line("", what, images)


class EmaWeights:
    """Exponential moving average of a network's parameters, in fp32; its buffers are copied.

    Update ``t`` (from 0) keeps ``min(decay, (1 + t) / (10 + t))`` of the average, so that the random first weights are
    forgotten quickly.

    Args:
        model: whose weights the average starts from; may be wrapped for several processes.
        decay: share of the average that an update keeps, above 0 and below 1.

    Raises:
        RamsesError: ``decay`` is out of range.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise RamsesError(f"SOLVER.EMA_DECAY is {decay}, use 0 for none or a number below 1 such as 0.999")
        self.decay = decay
        self.updates = 0
        self.average: dict[str, torch.Tensor] = {}
        self.restart(model)

    @torch.no_grad()
    def restart(self, model: nn.Module) -> None:
        """Begin anew with the weights a network has now."""
        self.updates = 0
        self.average = {
            name: value.detach().to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)
            for name, value in _plain(model).state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights after a training step."""
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        network = _plain(model)
        averaged = {name for name, _ in network.named_parameters(remove_duplicate=False)}
        for name, value in network.state_dict().items():
            if name in averaged:
                self.average[name].lerp_(value.float(), 1 - kept)
            else:
                self.average[name].copy_(value)
        self.updates += 1

    def buffers(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What is copied rather than averaged, such as running statistics."""
        return {name: self.average[name] for name, _ in _plain(model).named_buffers() if name in self.average}

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The network has the averaged weights inside the ``with`` block, and its own again, bit for bit, after it."""
        state = _plain(model).state_dict()
        own = {name: value.clone() for name, value in state.items()}
        try:
            _fill(state, self.average)
            yield
        finally:
            _fill(state, own)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        _fill(self.average, state_dict["average"])


class EmaUpdate(HookBase):
    """Averages after every step, and keeps the average in ``model_final_ema.pth``; stands before the checkpointer.

    Args:
        ema: the average.
        model: the network that trains.
        output_dir: of the final weights.
    """

    def __init__(self, ema: EmaWeights, model: nn.Module, output_dir: str) -> None:
        self._ema = ema
        self._model = model
        self._output_dir = output_dir

    def before_train(self) -> None:
        if self._ema.updates == 0:  # not resumed: weights may have been loaded since
            self._ema.restart(self._model)

    def after_step(self) -> None:
        self._ema.update(self._model)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter and comm.is_main_process():
            with self._ema.applied_to(self._model):
                WeightsOnly(self._model, self._output_dir).save("model_final_ema")


def _plain(model: nn.Module) -> nn.Module:
    return getattr(model, "module", model)  # DistributedDataParallel


@torch.no_grad()
def _fill(state: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    for name, value in state.items():
        value.copy_(values[name])


def fit_densities(dataset_dicts: Sequence[dict[str, Any]], num_classes: int) -> np.ndarray:
    """The areal density of each class that weighs the training particles with the least MAPE.

    Args:
        dataset dicts: dataset dicts; repeats count once.
        num_classes: C.

    Returns:
        (C,) g/mm2; that of all particles for a class without weighed ones. 0 where nothing is weighed at all.

    Raises:
        RamsesError: a label map cannot be read.
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
    """Fits the densities before the first step; a resumed training has them from its checkpoint.

    Args:
        density: of the network.
        dataset_names: of the training data.
    """

    def __init__(self, density: ArealDensity, dataset_names: Sequence[str]) -> None:
        self.density = density
        self.dataset_names = dataset_names

    def before_train(self) -> None:
        if self.trainer.start_iter > 0:
            return
        dataset_dicts = [dataset_dict for name in self.dataset_names for dataset_dict in DatasetCatalog.get(name)]
        densities = fit_densities(dataset_dicts, len(self.density.grams_per_mm2))
        self.density.set_densities(densities)
        if not self.density.is_known:
            logger.warning("The training data has no weighed particle of known resolution: no masses are predicted")
            return
        names = MetadataCatalog.get(self.dataset_names[0]).thing_classes
        listed = ", ".join(f"{name} {value:.4g}" for name, value in zip(names, densities, strict=True))
        logger.info("Areal densities, g/mm2: %s", listed)


class FigureWriter(hooks.PeriodicWriter):
    """Detectron2's writer, which also writes after every evaluation: it would keep only the latest of a period.

    Args:
        writers: of Detectron2.
        evaluation: the hook that evaluates.
        period: steps between two writes otherwise.
    """

    def __init__(self, writers: Sequence[EventWriter], evaluation: Evaluation, period: int = 20) -> None:
        super().__init__(writers, period)
        self._evaluation = evaluation

    def after_step(self) -> None:
        if self._evaluation.is_new():
            for writer in self._writers:
                writer.write()
        else:
            super().after_step()


class BestCheckpoint(HookBase):
    """Keep the weights of the best evaluation so far in ``model_best.pth``, across resumes too.

    Detectron2's own hook forgets the best score on resume, its file becomes the last checkpoint, and a metric that
    nobody computes is only warned of. Here the score is in the file itself: a checkpoint of the training is written
    before the evaluation of its step and would not know it. Stands after the evaluation, on the main process.

    Args:
        evaluation: whose results.
        model: whose weights to keep.
        output_dir: where.
        metric: name of a result; of "ema/..." the averaged weights are kept.
        mode: "max" or "min" is better.
        ema: the averaged weights, None = there are none.

    Raises:
        RamsesError: another mode; at the first evaluation, a metric that is not among its results.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        model: nn.Module,
        output_dir: str,
        metric: str,
        mode: str = "max",
        ema: EmaWeights | None = None,
    ) -> None:
        if mode not in ("max", "min"):
            raise RamsesError(f'TEST.BEST_MODE is "{mode}", use max or min')
        self._evaluation = evaluation
        self._model = model
        self._checkpointer = WeightsOnly(model, output_dir)
        self._path = Path(output_dir) / BEST
        self._metric, self._mode, self._sign = metric, mode, 1.0 if mode == "max" else -1.0
        self._ema = ema
        self.best_metric: float | None = None
        self.best_steps: int | None = None
        self._judged = 0

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
            self._judged = self._evaluation.evaluated

    def after_step(self) -> None:
        if self._evaluation.is_new():
            self._judge(self.trainer.iter + 1)

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._judge(self.trainer.max_iter)

    def _judge(self, steps: int) -> None:
        if steps == self._judged:
            return
        self._judged = steps
        value = self._evaluation.metric(self._metric, "TEST.BEST_METRIC")
        if not math.isfinite(value):  # nothing to measure
            return
        if (value, steps) == (self.best_metric, self.best_steps):  # done again by a resumed run
            return
        if self.best_metric is not None and self._sign * (value - self.best_metric) <= 0:
            best = (self.best_metric, self.best_steps)
            logger.info("%s is %.4g, not better than the %.4g after %d steps", self._metric, value, *best)
            return
        score = {"metric": self._metric, "mode": self._mode, "value": value}
        with self._weights():
            self._checkpointer.save(self._path.stem, iteration=steps - 1, **score)
        self.best_metric, self.best_steps = value, steps
        logger.info("%s is %.4g, the best so far: saved as model_best.pth", self._metric, value)

    def _weights(self) -> contextlib.AbstractContextManager:
        """Those that the metric is of, in the model."""
        if self._ema is not None and self._metric.startswith(EMA):
            return self._ema.applied_to(self._model)
        return contextlib.nullcontext()


# Annotated images of an evaluation
EVALUATION_IMAGES = 4


def has_tensorboard() -> bool:
    """Whether images and numbers can be written for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


class TrainingImages(HookBase):
    """Stores what the network is fed, augmentation and outlines included, every few steps as "train/picture".

    Networks of Detectron2 do so by themselves, with boxes; their training items have no label map.

    Args:
        model: the network, or its DistributedDataParallel.
        period: steps (VIS_PERIOD), above 0.
        class_names: of the class ids.
        image_format: "RGB" or "BGR", INPUT.FORMAT.
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


def follow_evaluations(
    cfg: CfgNode, all_hooks: Sequence[HookBase | None], evaluation: Evaluation, averages: Sequence[HookBase] = ()
) -> list[HookBase]:
    """Put our evaluation in the place of Detectron2's, and around it what depends on its results.

    Args:
        cfg: config.
        all_hooks: of Detectron2's default trainer.
        evaluation: replaces Detectron2's hook.
        averages: hooks that have to run before the checkpointer, which saves what they know.

    Returns:
        timer, schedule, averages, checkpointer, evaluation, plateau, early stopping, writers.

    Raises:
        RamsesError: something goes by evaluations, and there are none.
    """
    solver, before, after = cfg.SOLVER, list(averages), []
    if solver.LR_SCHEDULER_NAME == PLATEAU:
        metric = solver.PLATEAU.METRIC
        loss = LossMean() if metric == TRAINING_LOSS else None
        before += [loss] if loss else []
        after.append(PlateauCheck(evaluation, metric, loss))
        _need_evaluations(cfg, f'LR_SCHEDULER_NAME "{PLATEAU}"', needs_data=loss is None)
    stopping = solver.EARLY_STOPPING
    if stopping.PATIENCE:
        after.append(
            EarlyStopping(
                evaluation,
                metric=cfg.TEST.BEST_METRIC,
                mode=cfg.TEST.BEST_MODE,
                patience=stopping.PATIENCE,
                min_delta=stopping.MIN_DELTA,
            )
        )
        _need_evaluations(cfg, "EARLY_STOPPING", needs_data=True)
    ordered: list[HookBase] = []
    for hook in all_hooks:
        if isinstance(hook, hooks.EvalHook):
            ordered += [evaluation, *after]
        elif hook is not None:
            ordered.append(hook)
    schedule = next(index for index, hook in enumerate(ordered) if isinstance(hook, hooks.LRScheduler))
    ordered[schedule + 1 : schedule + 1] = before
    return ordered


def _need_evaluations(cfg: CfgNode, what: str, *, needs_data: bool) -> None:
    if cfg.TEST.EVAL_PERIOD <= 0 or (needs_data and not cfg.DATASETS.TEST):
        keys = "TEST.EVAL_PERIOD and DATASETS.TEST" if needs_data else "TEST.EVAL_PERIOD"
        raise RamsesError(f"SOLVER.{what} goes by evaluations: set {keys}")


def final_test(cfg: CfgNode, model: nn.Module, test: Callable[[CfgNode, nn.Module], dict[str, Any]]) -> dict[str, Any]:
    """Evaluate ``DATASETS.FINAL_TEST`` into ``OUTPUT_DIR/test``; all processes have to call it.

    The weights are those of ``model_best.pth``, if evaluations during the training have chosen any, else those the
    model has. It has them back in the end.

    Args:
        cfg: of the training.
        model: the network, or its DistributedDataParallel.
        test: evaluates ``DATASETS.TEST`` of a config.

    Returns:
        what ``test`` returns; empty without such data sets.
    """
    if not cfg.DATASETS.FINAL_TEST:
        return {}
    comm.synchronize()  # the main process may still be writing the best weights
    best = Path(cfg.OUTPUT_DIR) / BEST
    network = getattr(model, "module", model)
    last = None
    # Another machine need not see the folder: the main process decides, and has the weights
    if cfg.DATASETS.TEST and comm.all_gather(best.is_file())[0]:
        last = {name: tensor.cpu().clone() for name, tensor in network.state_dict().items()}
        if comm.is_main_process():
            load_weights(network, str(best))
        share_buffers(network.state_dict())
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "test")
    cfg.DATASETS.TEST = cfg.DATASETS.FINAL_TEST
    weights = "the last weights" if last is None else best
    logger.info("Final test of %s on %s, files in %s", weights, ", ".join(cfg.DATASETS.TEST), cfg.OUTPUT_DIR)
    try:
        return test(cfg, model)
    finally:
        if last is not None:
            network.load_state_dict(last)


class LossMean(HookBase):
    """Mean training loss since the last look at it; stands before the checkpointer, which saves it with every step."""

    def __init__(self) -> None:
        self._sum, self._steps = 0.0, 0

    def after_step(self) -> None:
        latest = self.trainer.storage.latest().get(TRAINING_LOSS)
        if latest is not None:  # the main process has it
            self._sum += latest[0]
            self._steps += 1

    def take(self) -> float:
        """The mean, and begin anew."""
        mean = self._sum / self._steps if self._steps else float("nan")
        self._sum, self._steps = 0.0, 0
        return mean

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self._sum, "steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sum, self._steps = state_dict["sum"], state_dict["steps"]


class PlateauCheck(HookBase):
    """Shows every evaluation to a :class:`PlateauScheduler`.

    Args:
        evaluation: whose results.
        metric: name of one of them, or "total_loss".
        loss: for "total_loss".
    """

    def __init__(self, evaluation: Evaluation, metric: str, loss: LossMean | None) -> None:
        self._evaluation = evaluation
        self._metric = metric
        self._loss = loss

    def after_step(self) -> None:
        if not self._evaluation.is_new():
            return
        scheduler: PlateauScheduler = self.trainer.scheduler
        before = scheduler.multiplier
        if self._loss is not None:
            scheduler.judge(self._evaluation.of_main_process(self._loss.take()))
        else:
            scheduler.judge(self._evaluation.metric(self._metric, "SOLVER.PLATEAU.METRIC"))
        if scheduler.multiplier < before:
            logger.info("%s stands still: learning rate times %.3g from now on", self._metric, scheduler.multiplier)
