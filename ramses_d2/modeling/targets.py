"""Which grid cells are responsible for which object.

Shape letters: K objects, L pyramid levels, G all cells of all levels, P positive cells, Hm Wm mask grid.
An object's *label* is its value 1..K in the label map; 0 is background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

LEVEL_RULES = ("ramses", "range")


@dataclass
class ObjectGeometry:
    """Where K objects lie on the mask grid, relative to it: 0 at the first row or column, 1 at the last.

    Attributes:
        centers: (K, 2) centre of mass, row and column.
        sizes: (K, 2) height and width of the box.
    """

    centers: torch.Tensor
    sizes: torch.Tensor

    def __len__(self) -> int:
        return len(self.centers)


def object_geometry(label_map: torch.Tensor, num_objects: int) -> ObjectGeometry:
    """Measure the objects of a label map (Hm, Wm) int64; each of 1..K must have a pixel, and there are no others."""
    rows, cols = label_map.nonzero(as_tuple=True)
    index = label_map[rows, cols] - 1
    points = torch.stack((rows, cols), dim=1).double()  # float32 sums of large objects would lose the half cells
    owner = index[:, None].expand(-1, 2)
    count = torch.bincount(index, minlength=num_objects).double()
    if len(count) != num_objects or not bool((count > 0).all()):
        raise ValueError(f"the label map must hold exactly the labels 1..{num_objects}")
    zeros = points.new_zeros(num_objects, 2)
    total = zeros.scatter_add(0, owner, points)
    low = zeros.scatter_reduce(0, owner, points, "amin", include_self=False)
    high = zeros.scatter_reduce(0, owner, points, "amax", include_self=False)
    extent = torch.tensor(label_map.shape, dtype=points.dtype, device=points.device) - 1
    return ObjectGeometry(centers=total / count[:, None] / extent, sizes=(high - low + 1) / extent)


def grid_shape(grid_size: int, height: int, width: int, square: bool = False) -> tuple[int, int]:
    """Rows and columns of a grid with ``grid_size`` cells along the long side (rounded half to even, at least 1).

    A square grid, as in SOLOv2, has as many along the short side.
    """
    if square:
        return grid_size, grid_size
    longest = max(height, width)
    return max(1, round(grid_size * height / longest)), max(1, round(grid_size * width / longest))


def level_membership(
    sizes: torch.Tensor,
    image_size: tuple[int, int],
    strides: Sequence[int],
    scale_ranges: Sequence[Sequence[float]],
    rule: str = "ramses",
) -> torch.Tensor:
    """Which pyramid levels see which object, (L, K) bool.

    The rule "range" (SOLOv2) is the ranges alone. In the rule "ramses" the first level takes everything up to its upper
    bound, the last two everything from their lower bound on. Levels in between take their range unless the object is
    thinner than their stride, and long objects as thin as their stride.

    Args:
        sizes: (K, 2) relative box sizes.
        image_size: height and width of the network input, px.
        strides: of the L levels, px.
        scale_ranges: of the L levels, px, both bounds inclusive.
    """
    sides = sizes * (torch.tensor(image_size, dtype=sizes.dtype, device=sizes.device) - 1)
    scale, thinnest = sides.prod(dim=1).sqrt(), sides.amin(dim=1)
    last = len(scale_ranges) - 1
    levels = []
    for level, (low, high) in enumerate(scale_ranges):
        if rule == "range":
            member = (scale >= low) & (scale <= high)
        elif level == 0:
            member = scale <= high
        elif level >= last - 1:
            member = scale >= low
        else:
            in_range = (scale >= low) & (scale <= high) & (thinnest >= strides[level])
            long_and_thin = (scale > high) & (thinnest >= strides[level]) & (thinnest < strides[level + 1])
            member = in_range | long_and_thin
        levels.append(member)
    return torch.stack(levels)


def paint_grid(
    geometry: ObjectGeometry, labels: torch.Tensor, shape: tuple[int, int], offset_factor: float
) -> torch.Tensor:
    """Paint the positive regions of one level; where regions overlap, the smaller box wins.

    Cost and memory are objects x cells, about 70 MB for 800 objects on the finest published grid.

    Args:
        geometry: of the K objects of this level.
        labels: (K,) their labels.
        shape: rows and columns of the grid.
        offset_factor: share of the box sides that is positive.

    Returns:
        (rows, columns) int64 labels, 0 = background.
    """
    if not len(labels):
        return labels.new_zeros(shape)
    cells = [torch.arange(n, dtype=geometry.centers.dtype, device=labels.device) for n in shape]
    order = geometry.sizes.prod(dim=1).argsort(stable=True)
    covered = []
    for axis, index in enumerate(cells):
        last = shape[axis] - 1
        center, half = geometry.centers[order, axis, None], offset_factor / 2 * geometry.sizes[order, axis, None]
        inside = (index >= last * (center - half)) & (index <= last * (center + half))
        nearest = index == (last * center).round().clamp(max=last)
        covered.append((inside, nearest))
    (rows, center_row), (cols, center_col) = covered
    region = rows[:, :, None] & cols[:, None, :] | center_row[:, :, None] & center_col[:, None, :]
    background = len(order)
    rank = torch.arange(background, dtype=torch.int32, device=labels.device)[:, None, None]
    smallest = torch.where(region, rank, background).amin(dim=0).long()
    return torch.cat((labels[order], labels.new_zeros(1)))[smallest]


def assign_cells(
    geometry: ObjectGeometry,
    image_size: tuple[int, int],
    grid_shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    scale_ranges: Sequence[Sequence[float]],
    offset_factor: float,
    rule: str = "ramses",
) -> torch.Tensor:
    """(G,) int64 label of the object each cell must predict, 0 = background; levels one after another, row-major.

    ``geometry`` is of the K objects in label order; see :func:`level_membership` and :func:`paint_grid` for the others.
    """
    labels = torch.arange(1, len(geometry) + 1, device=geometry.centers.device)
    membership = level_membership(geometry.sizes, image_size, strides, scale_ranges, rule)
    painted = []
    for member, shape in zip(membership, grid_shapes, strict=True):
        of_level = ObjectGeometry(geometry.centers[member], geometry.sizes[member])
        painted.append(paint_grid(of_level, labels[member], shape, offset_factor).flatten())
    return torch.cat(painted)


def sample_cells(labels: torch.Tensor, limit: int) -> torch.Tensor:
    """Draw at most ``limit`` positive cells at random, keeping a cell of every object while there is room.

    From labels (P,) > 0 to (min(P, limit),) int64 indices into them, ascending.
    """
    if len(labels) <= limit:
        return torch.arange(len(labels), device=labels.device)
    draw = torch.rand(len(labels), device=labels.device)
    lowest = draw.new_ones(int(labels.max()) + 1).scatter_reduce(0, labels, draw, "amin")
    first_of_object = draw == lowest[labels]
    return (draw - first_of_object.to(draw)).topk(limit, largest=False).indices.sort().values
