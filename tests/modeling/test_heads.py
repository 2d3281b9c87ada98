"""The two heads: shapes, the published parameter counts, and what each branch may see."""

from __future__ import annotations

import math

import pytest
import torch

from ramses_d2.errors import RamsesError
from ramses_d2.modeling.heads import MaskHead, Norm, SharedHead, append_coordinates, get_activation, get_norm


def num_parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_parameter_counts() -> None:
    """Reference section 2.9: 2 395 919, 1 182 977 and 2 956 032; 775 936, 590 977 and 33 536."""
    shared = SharedHead(in_channels=256, num_classes=15, kernel_channels=256)
    assert num_parameters(shared.class_branch) + num_parameters(shared.class_logits) == 2_395_919
    assert num_parameters(shared.factor_branch) == 1_182_977
    assert num_parameters(shared.kernel_branch) + num_parameters(shared.kernel_out) == 2_956_032
    mask = MaskHead(in_channels=256, num_levels=3)
    assert num_parameters(mask.pipelines) == 775_936
    assert num_parameters(mask.geometry) + 0 == 590_977
    assert num_parameters(mask.mask_out) == 33_536


def test_coordinates_are_x_then_y_with_both_ends() -> None:
    x = append_coordinates(torch.zeros(2, 1, 3, 5))
    assert x.shape == (2, 3, 3, 5)
    assert x[1, 1, 2].tolist() == [-1, -0.5, 0, 0.5, 1]
    assert x[1, 2, :, 4].tolist() == [-1, 0, 1]


def test_shared_head_shapes_and_prior() -> None:
    head = SharedHead(
        in_channels=8, num_classes=3, kernel_channels=5, channels=8, convs=1, factor_convs=1, prior_prob=0.01
    )
    cells = head([torch.zeros(2, 8, 16, 24), torch.zeros(2, 8, 8, 12)], [(6, 9), (3, 4)])
    assert (
        cells.class_logits.shape == (2, 66, 3) and cells.kernels.shape == (2, 66, 5) and cells.factors.shape == (2, 66)
    )
    # zeros in, zeros through the norm's zero bias: what is left is the prior
    assert cells.class_logits.sigmoid()[0, 20].tolist() == pytest.approx([0.01] * 3, rel=1e-4)
    assert math.isclose(head.class_logits.bias[0].item(), -math.log(99), rel_tol=1e-5)


def test_only_the_kernel_branch_knows_where_it_is() -> None:
    head = SharedHead(
        in_channels=4, num_classes=2, kernel_channels=3, channels=4, convs=1, factor_convs=1, norm=Norm("")
    )
    cells = head([torch.ones(1, 4, 9, 9)], [(9, 9)])
    inner = torch.arange(81).view(9, 9)[3:6, 3:6].flatten()
    assert torch.allclose(cells.class_logits[0, inner], cells.class_logits[0, inner[:1]], atol=1e-6)
    assert torch.allclose(cells.factors[0, inner], cells.factors[0, inner[:1]], atol=1e-6)
    assert not torch.allclose(cells.kernels[0, inner], cells.kernels[0, inner[:1]], atol=1e-3)


def test_every_branch_sees_the_features() -> None:
    head = SharedHead(
        in_channels=4, num_classes=2, kernel_channels=3, channels=4, convs=1, factor_convs=1, norm=Norm("")
    )
    level = torch.rand(1, 4, 6, 6, requires_grad=True)
    cells = head([level], [(6, 6)])
    for output in cells:
        (gradient,) = torch.autograd.grad(output.square().sum(), level, retain_graph=True)
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("output_level", "upscale", "shape"),
    [(0, "", (16, 24)), (1, "", (8, 12)), (0, "fused", (32, 48)), (0, "output", (32, 48))],
)
def test_mask_grid(output_level: int, upscale: str, shape: tuple[int, int]) -> None:
    head = MaskHead(
        in_channels=4,
        num_levels=3,
        output_level=output_level,
        mid_channels=4,
        out_channels=6,
        geometry_convs=1,
        geometry_channels=4,
        upscale=upscale,
    )
    features, geometry = head([torch.rand(2, 4, 16 // 2**i, 24 // 2**i) for i in range(3)])
    assert features.shape == (2, 6, *shape) and geometry.shape == (2, *shape)
    assert (geometry >= 0).all()


def test_disc_features_let_a_kernel_draw_a_disc() -> None:
    head = MaskHead(in_channels=4, num_levels=1, mid_channels=4, out_channels=2, geometry_convs=0, disc_features=True)
    features, _ = head([torch.rand(1, 4, 9, 9)])
    assert features.shape == (1, 6, 9, 9)
    disc = (torch.tensor([0.0, 0, 0, 0, -1, 0.3]) @ features[0].flatten(1)).view(9, 9) > 0
    assert disc[4, 4] and disc.sum() == 13 and torch.equal(disc, disc.T)


def test_without_mass_there_are_no_mass_outputs() -> None:
    shared = SharedHead(in_channels=4, num_classes=2, kernel_channels=3, channels=4, with_mass=False)
    mask = MaskHead(in_channels=4, num_levels=1, mid_channels=4, out_channels=2, with_mass=False)
    assert shared([torch.rand(1, 4, 4, 4)], [(4, 4)]).factors is None and mask([torch.rand(1, 4, 4, 4)])[1] is None


def test_unknown_names_are_errors() -> None:
    with pytest.raises(RamsesError, match="nosuchnorm"):
        get_norm(Norm("nosuchnorm"), 8)
    with pytest.raises(RamsesError, match="Swoosh"):
        get_activation("Swoosh")
    with pytest.raises(RamsesError, match="UPSCALE"):
        MaskHead(in_channels=4, num_levels=1, upscale="twice")


@pytest.mark.parametrize("norm", ["LN", "RMS", "GN", "BN", ""])
def test_every_norm_runs(norm: str) -> None:
    head = SharedHead(in_channels=32, num_classes=2, kernel_channels=3, channels=32, convs=1, norm=Norm(norm))
    assert head([torch.rand(2, 32, 4, 4)], [(4, 4)]).class_logits.isfinite().all()
