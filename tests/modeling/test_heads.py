"""The two heads: shapes, the published parameter counts, what each branch may see, and the dynamic convolution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import (
    MaskHead,
    Norm,
    SharedHead,
    append_coordinates,
    get_activation,
    get_norm,
    mask_logits,
)


def num_parameters(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def shared_head(channels: int = 4, **options: Any) -> SharedHead:
    sizes = {"in_channels": channels, "num_classes": 2, "kernel_channels": 3, "channels": channels, "convs": 1}
    return SharedHead(**{**sizes, "factor_convs": 1, **options})


def mask_head(num_levels: int = 3, **options: Any) -> MaskHead:
    sizes = {"in_channels": 4, "mid_channels": 4, "out_channels": 6, "geometry_convs": 1, "geometry_channels": 4}
    return MaskHead(num_levels=num_levels, **{**sizes, **options})


def test_published_parameter_counts() -> None:
    shared = SharedHead(in_channels=256, num_classes=15, kernel_channels=256)
    assert num_parameters(shared.class_branch, shared.class_logits) == 2_395_919
    assert num_parameters(shared.factor_branch) == 1_182_977
    assert num_parameters(shared.kernel_branch, shared.kernel_out) == 2_956_032
    mask = MaskHead(in_channels=256, num_levels=3)
    assert list(map(num_parameters, (mask.pipelines, mask.geometry, mask.mask_out))) == [775_936, 590_977, 33_536]


def test_coordinates_are_x_then_y_with_both_ends() -> None:
    x = append_coordinates(torch.zeros(2, 1, 3, 5))
    assert x.shape == (2, 3, 3, 5)
    assert x[1, 1, 2].tolist() == [-1, -0.5, 0, 0.5, 1] and x[1, 2, :, 4].tolist() == [-1, 0, 1]


def test_shared_head_shapes_and_prior() -> None:
    head = shared_head(8, num_classes=3, kernel_channels=5, prior_prob=0.01)
    cells = head([torch.zeros(2, 8, 16, 24), torch.zeros(2, 8, 8, 12)], [(6, 9), (3, 4)])
    assert [output.shape for output in cells] == [(2, 66, 3), (2, 66, 5), (2, 66)]
    # zeros in, zeros through the norm's zero bias: what is left is the prior
    assert cells.class_logits.sigmoid()[0, 20].tolist() == pytest.approx([0.01] * 3, rel=1e-4)
    assert math.isclose(head.class_logits.bias[0].item(), -math.log(99), rel_tol=1e-5)


def test_every_branch_sees_the_features_and_only_the_kernels_where_they_are() -> None:
    head = shared_head(norm=Norm(""))
    level = torch.rand(1, 4, 6, 6, requires_grad=True)
    for output in head([level], [(6, 6)]):
        (gradient,) = torch.autograd.grad(output.square().sum(), level, retain_graph=True)
        assert gradient.abs().max() > 0
    cells = head([torch.ones(1, 4, 9, 9)], [(9, 9)])
    inner = torch.arange(81).view(9, 9)[3:6, 3:6].flatten()
    pairs = zip(cells, (1e-6, 1e-3, 1e-6), strict=True)
    same = [torch.allclose(output[0, inner], output[0, inner[:1]], atol=atol) for output, atol in pairs]
    assert same == [True, False, True]


@pytest.mark.parametrize(
    ("output_level", "upscale", "shape"),
    [(0, "", (16, 24)), (1, "", (8, 12)), (0, "fused", (32, 48)), (0, "output", (32, 48))],
)
def test_mask_grid(output_level: int, upscale: str, shape: tuple[int, int]) -> None:
    head = mask_head(output_level=output_level, upscale=upscale)
    features, geometry = head([torch.rand(2, 4, 16 // 2**i, 24 // 2**i) for i in range(3)])
    assert features.shape == (2, 6, *shape) and geometry.shape == (2, *shape)
    assert (geometry >= 0).all()


def test_coordinates_reach_all_mask_levels_or_the_coarsest_only() -> None:
    widths = {
        mode: [pipeline[-1 if level == 0 else 1].in_channels for level, pipeline in enumerate(head.pipelines)]
        for mode in ("all", "coarsest")
        for head in [mask_head(coordinate_levels=mode)]
    }
    assert widths == {"all": [6, 6, 6], "coarsest": [4, 4, 6]}


def test_disc_features_let_a_kernel_draw_a_disc() -> None:
    head = mask_head(1, out_channels=2, geometry_convs=0, disc_features=True)
    features, _ = head([torch.rand(1, 4, 9, 9)])
    assert features.shape == (1, 6, 9, 9)
    disc = (torch.tensor([0.0, 0, 0, 0, -1, 0.3]) @ features[0].flatten(1)).view(9, 9) > 0
    assert disc[4, 4] and disc.sum() == 13 and torch.equal(disc, disc.T)


def test_without_mass_there_are_no_mass_outputs() -> None:
    assert shared_head(with_mass=False)([torch.rand(1, 4, 4, 4)], [(4, 4)]).factors is None
    assert mask_head(1, with_mass=False)([torch.rand(1, 4, 4, 4)])[1] is None


@pytest.mark.parametrize("name", ["LN", "RMS", "GN", "BN", ""])
def test_norms_run_and_take_their_eps(name: str) -> None:
    head = shared_head(32, norm=Norm(name))
    assert head([torch.rand(2, 32, 4, 4)], [(4, 4)]).class_logits.isfinite().all()
    if name:  # a large eps damps what the norm gives
        x = torch.randn(2, 8, 4, 4, generator=torch.Generator().manual_seed(0))
        small, large = (get_norm(Norm(name, eps, 4), 8).train()(x) for eps in (1e-6, 3.0))
        torch.testing.assert_close(large / small, torch.full_like(x, 0.5), atol=0.25, rtol=0)


def test_unknown_names_are_errors() -> None:
    for named, build in (
        ("nosuchnorm", lambda: get_norm(Norm("nosuchnorm"), 8)),
        ("Swoosh", lambda: get_activation("Swoosh")),
        ("UPSCALE", lambda: mask_head(upscale="twice")),
    ):
        with pytest.raises(RamsesError, match=named):
            build()


def test_dynamic_convolution() -> None:
    features, kernels = torch.randn(4, 6, 5), torch.randn(2, 4)
    expected = torch.einsum("pe,ehw->phw", kernels, features)
    torch.testing.assert_close(mask_logits(kernels, features), expected)
    centred = torch.zeros(2, 4, 3, 3)
    centred[:, :, 1, 1] = kernels
    torch.testing.assert_close(mask_logits(centred.flatten(1), features), expected)
    for side in (1, 3):
        assert mask_logits(torch.zeros(0, 4 * side * side), features).shape == (0, 6, 5)
    for values in (7, 16):  # nothing of 4 channels, and a side of 2
        with pytest.raises(ValueError, match="4 mask channels"):
            mask_logits(torch.zeros(1, values), features)
