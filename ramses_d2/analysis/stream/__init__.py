"""Conveyor streams: every particle of a belt once, whole, however the frames cut it (docs/streams.md)."""

from ramses_d2.analysis.stream.instances import FrameInstances, instances_from_labels, instances_from_prediction
from ramses_d2.analysis.stream.order import Gap, find_gaps, frame_numbers, natural_order
from ramses_d2.analysis.stream.particle_stream import ParticleStream, StreamParticle, stream_particles

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
