"""Conveyor streams: every particle of a belt once, whole, however the frames cut it (docs/streams.md)."""

from ramses_d2.analysis.stream.belt import (
    Gap,
    ParticleStream,
    StreamParticle,
    find_gaps,
    frame_numbers,
    natural_order,
    stream_particles,
)
from ramses_d2.analysis.stream.stitch import FrameInstances, instances_from_labels, instances_from_prediction

__all__ = [
    "FrameInstances",
    "Gap",
    "ParticleStream",
    "StreamParticle",
    "find_gaps",
    "frame_numbers",
    "instances_from_labels",
    "instances_from_prediction",
    "natural_order",
    "stream_particles",
]
