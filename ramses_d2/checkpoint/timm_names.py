"""From the parameter names of timm's feature networks back to those of the whole network, which weights files have.

``features_only`` renames parameters: FeatureListNet writes ``stem.0`` as ``stem_0``, FeatureHookNet puts ``body.`` in
front, FeatureGetterNet ``model.``, and others rename nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

_WRAPPERS = ("body", "model")


def whole_names(keys: Iterable[str], whole: Collection[str]) -> dict[str, str]:
    """The name in the whole network of every parameter of its feature network.

    Args:
        keys: names in the feature network.
        whole: names in the whole network.

    Returns:
        feature-network name -> name in ``whole``, or the name itself when nothing in ``whole`` answers to it.
    """
    return {key: next((name for name in _readings(key) if name in whole), key) for key in keys}


def _readings(key: str) -> Iterator[str]:
    """What a name may have been, the likeliest first."""
    yield key
    first, _, rest = key.partition(".")
    if first in _WRAPPERS:
        yield rest
    for position, letter in enumerate(first):
        if letter == "_":
            yield f"{first[:position]}.{first[position + 1 :]}.{rest}"
