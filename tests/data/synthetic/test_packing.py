"""Stones are laid against each other without overlap."""

import numpy as np
import pytest

from ramses_d2.data.synthetic.scene import Packer
from ramses_d2.data.synthetic.stones import ANGLES


def pack_discs(shape, radii, seed, overhang=0):
    """Pack discs and return the label grid and the number of doubly claimed pixels."""
    labels = np.zeros(shape, np.uint16)
    packer = Packer(labels, np.random.default_rng(seed), overhang)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    claimed_twice = 0
    for label, radius in enumerate(radii, start=1):
        centre = packer.place(np.full(len(ANGLES), float(radius)))
        if centre is not None:
            disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
            claimed_twice += int((labels[disc] > 0).sum())
            labels[disc] = label
    return labels, claimed_twice


@pytest.mark.parametrize("seed", range(4))
def test_discs_touch_and_do_not_overlap(seed):
    labels, claimed_twice = pack_discs((260, 380), np.linspace(30, 12, 30), seed)
    assert len(np.unique(labels)) == 31
    assert claimed_twice < 0.002 * (labels > 0).sum()
    touching = 0
    for label in range(1, 31):
        row, column = np.argwhere(labels == label).mean(axis=0)
        radius = np.sqrt((labels == label).sum() / np.pi) + 3
        rim = labels[
            np.rint(row + radius * np.sin(ANGLES)).astype(int).clip(0, 259),
            np.rint(column + radius * np.cos(ANGLES)).astype(int).clip(0, 379),
        ]
        touching += bool(np.any((rim > 0) & (rim != label)))
    assert touching >= 25


def test_stones_stay_whole_inside_the_image():
    labels, _ = pack_discs((200, 200), [25] * 12, seed=1)
    for label in np.unique(labels)[1:]:
        assert (labels == label).sum() == (labels == 1).sum()
    assert not labels[0].any() and not labels[:, -1].any()


def test_overhanging_centres_stay_in_the_frame():
    labels, _ = pack_discs((300, 300), [25] * 60, seed=1, overhang=50)
    centres = np.array([np.argwhere(labels == label).mean(axis=0) for label in np.unique(labels)[1:]])
    assert (centres >= 49).all() and (centres <= 250).all()
    assert labels[:50].any() or labels[-50:].any()


def test_no_room_gives_none():
    labels = np.zeros((60, 60), np.uint16)
    assert Packer(labels, np.random.default_rng(0)).place(np.full(len(ANGLES), 40.0)) is None
    labels[:] = 1
    assert Packer(labels, np.random.default_rng(0)).place(np.full(len(ANGLES), 10.0)) is None
