"""The three losses, as plain functions in fp32. Without anything to learn from they give zeros that keep the graph.

Shape letters: P positive cells, K objects, C classes, G all cells, E mask channels, k kernel side, Hm Wm mask grid.
"""

from __future__ import annotations

import torch
from fvcore.nn import sigmoid_focal_loss
from torch.utils.checkpoint import checkpoint

from ramses_d2.modeling.heads import mask_logits

MASS_LOSSES = ("mape", "log")


def focal_loss(logits: torch.Tensor, classes: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """Sum of the sigmoid focal loss over all cells and classes (Lin et al., ICCV 2017); the caller normalises.

    Args:
        logits: (G, C).
        classes: (G,) int64, 0..C-1, or C for background.
    """
    num_classes = logits.shape[1]
    target = torch.nn.functional.one_hot(classes, num_classes + 1)[:, :num_classes]
    return sigmoid_focal_loss(logits.float(), target.float(), alpha=alpha, gamma=gamma, reduction="sum")


def dice_loss(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Dice loss with squared norms (Milletari et al., "V-Net", 3DV 2016): two of (P, pixels) -> (P,) in 0..1."""
    probabilities, targets = probabilities.float(), targets.float()
    # einsum sums the products without storing them
    overlap = torch.einsum("pn,pn->p", probabilities, targets)
    norm = torch.einsum("pn,pn->p", probabilities, probabilities) + targets.sum(1)
    return 1 - 2 * overlap / (norm + 1e-6)


def mask_loss(
    kernels: torch.Tensor, features: torch.Tensor, labels: torch.Tensor, label_map: torch.Tensor, chunk_size: int = 64
) -> torch.Tensor:
    """Sum over positive cells of the dice loss between the mask a cell draws and its object.

    It works from the label map, in chunks whose masks are computed again in the backward pass, so that memory does not
    grow with P (768 masks of the published model would take 0.3 GB per tensor).

    Args:
        kernels: (P, E * k * k).
        features: (E, Hm, Wm).
        labels: (P,) label of the object of each cell.
        label_map: (Hm, Wm) int64.
    """

    def of_chunk(kernels: torch.Tensor, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        probabilities = mask_logits(kernels, features).float().sigmoid()
        targets = label_map[None] == labels[:, None, None]
        return dice_loss(probabilities.flatten(1), targets.flatten(1)).sum()

    if 0 < len(labels) <= chunk_size:
        return of_chunk(kernels, features, labels)  # nothing to save by computing twice
    total = (kernels.sum() + features.sum()) * 0.0
    for start in range(0, len(labels), chunk_size):
        part = slice(start, start + chunk_size)
        inputs = (kernels[part], features, labels[part])
        total = total + checkpoint(of_chunk, *inputs, use_reentrant=False, preserve_rng_state=False)
    return total


def relative_mass_error(predicted: torch.Tensor, target: torch.Tensor, kind: str) -> torch.Tensor:
    """(P,) errors of normalised masses, "mape" |m - t| / t or "log" |ln m - ln t|; 0 where ``target`` is NaN."""
    known = target.isfinite()
    target = torch.where(known, target, 1.0).float()
    predicted = predicted.float()
    if kind == "mape":
        error = (predicted - target).abs() / target.clamp(min=1e-7)
    else:
        error = (predicted.clamp(min=1e-7).log() - target.clamp(min=1e-7).log()).abs()
    return torch.where(known, error, error * 0.0)


def mass_loss(
    predicted: torch.Tensor, target: torch.Tensor, labels: torch.Tensor, kind: str = "mape"
) -> tuple[torch.Tensor, int]:
    """Sum over objects of the mean relative mass error of their cells, and the number of objects in it.

    Averaged per object first, so that large particles, which have more cells, do not dominate.

    Args:
        predicted, target: (P,) normalised masses; a NaN target counts in neither sum nor number.
        labels: (P,) label of the object of each cell, > 0.
    """
    known = target.isfinite()
    if not bool(known.any()):
        return predicted.sum() * 0.0, 0
    cells = torch.bincount(labels[known])
    error = relative_mass_error(predicted, target, kind)
    return (error / cells.clamp(min=1)[labels.clamp(max=len(cells) - 1)]).sum(), int((cells > 0).sum())
