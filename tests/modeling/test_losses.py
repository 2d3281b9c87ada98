"""Losses: golden values, and what an empty image does."""

from __future__ import annotations

import pytest
import torch

from ramses_d2.modeling.heads import mask_logits
from ramses_d2.modeling.losses import dice_loss, focal_loss, mask_loss, mass_loss, relative_mass_error

NAN = float("nan")


def test_golden_values() -> None:
    dice = dice_loss(torch.tensor([[0.9, 0.2, 0.4, 0.1]]), torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    assert dice.item() == pytest.approx(0.139073, abs=1e-6)
    probabilities = torch.tensor([[0.7, 0.1], [0.2, 0.6], [0.05, 0.3]])
    classes = torch.tensor([0, 1, 2])  # class 1, class 2, background
    total = focal_loss(torch.logit(probabilities), classes, alpha=0.25, gamma=2.0)
    assert total.item() / (2 + 1) == pytest.approx(0.0200382, abs=1e-6)
    error = relative_mass_error(torch.tensor([40.0, 3.0, 1.0]), torch.tensor([50.0, NAN, 0.0]), "mape")
    assert error.tolist() == pytest.approx([0.2, 0.0, 1e7])
    log = relative_mass_error(torch.tensor([2.0, 0.5]), torch.tensor([1.0, 1.0]), "log")
    assert log.tolist() == pytest.approx([0.693147, 0.693147])  # symmetric in the ratio


def test_mass_loss_averages_per_object_before_it_sums() -> None:
    predicted, labels = torch.tensor([2.0, 2.0, 2.0, 1.5]), torch.tensor([1, 1, 1, 3])
    total, number = mass_loss(predicted, torch.ones(4), labels)
    assert (total.item(), number) == (pytest.approx(1.5), 2)


def test_unknown_masses_count_in_neither_sum_nor_number() -> None:
    predicted = torch.tensor([2.0, 5.0], requires_grad=True)
    total, number = mass_loss(predicted, torch.tensor([1.0, NAN]), torch.tensor([1, 2]))
    total.backward()
    assert (total.item(), number) == (1.0, 1)
    assert predicted.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("target", [torch.zeros(0), torch.full((3,), NAN)])
def test_without_a_known_mass_the_loss_keeps_the_graph(target: torch.Tensor) -> None:
    predicted = torch.ones(len(target), requires_grad=True)
    total, number = mass_loss(predicted * 2, target, torch.ones(len(target), dtype=torch.int64))
    total.backward()
    assert number == 0 and total.item() == 0 and not predicted.grad.any()


def test_mask_loss_equals_the_unchunked_sum_and_gradient() -> None:
    label_map = torch.randint(0, 4, (6, 7))
    labels = torch.tensor([1, 2, 3, 3, 1])
    kernels, features = torch.randn(5, 8, requires_grad=True), torch.randn(8, 6, 7, requires_grad=True)
    masks = mask_logits(kernels, features).sigmoid().flatten(1)
    plain = dice_loss(masks, (label_map[None] == labels[:, None, None]).flatten(1)).sum()
    expected = torch.autograd.grad(plain, (kernels, features))
    for chunk_size in (2, 5):
        chunked = mask_loss(kernels, features, labels, label_map, chunk_size=chunk_size)
        torch.testing.assert_close(chunked, plain)
        torch.testing.assert_close(torch.autograd.grad(chunked, (kernels, features)), expected)


def test_mask_loss_without_cells_keeps_the_graph() -> None:
    kernels, features = torch.randn(0, 8, requires_grad=True), torch.randn(8, 6, 7, requires_grad=True)
    total = mask_loss(kernels, features, torch.zeros(0, dtype=torch.int64), torch.zeros(6, 7, dtype=torch.int64))
    total.backward()
    assert total.item() == 0 and features.grad is not None


def test_losses_are_fp32_under_autocast() -> None:
    half = torch.ones(1, 4, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert focal_loss(half, torch.tensor([2]), 0.25, 2.0).dtype == torch.float32
        assert dice_loss(half, half.float()).dtype == torch.float32
        assert relative_mass_error(half[0], half[0].float(), "mape").dtype == torch.float32
