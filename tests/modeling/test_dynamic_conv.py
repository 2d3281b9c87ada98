"""Dynamic convolution."""

from __future__ import annotations

import pytest
import torch

from ramses_d2.modeling.heads import mask_logits


def test_one_by_one_kernel_is_a_dot_product() -> None:
    features = torch.randn(4, 3, 5)
    kernels = torch.randn(2, 4)
    torch.testing.assert_close(mask_logits(kernels, features), torch.einsum("pe,ehw->phw", kernels, features))


def test_a_centred_three_by_three_kernel_equals_a_one_by_one() -> None:
    features, kernels = torch.randn(4, 6, 5), torch.randn(2, 4)
    wide = torch.zeros(2, 4, 3, 3)
    wide[:, :, 1, 1] = kernels
    torch.testing.assert_close(mask_logits(wide.flatten(1), features), mask_logits(kernels, features))


def test_no_kernels_and_wrong_kernels() -> None:
    assert mask_logits(torch.zeros(0, 4), torch.zeros(4, 3, 5)).shape == (0, 3, 5)
    with pytest.raises(ValueError, match="do not fit"):
        mask_logits(torch.zeros(1, 7), torch.zeros(4, 3, 5))
