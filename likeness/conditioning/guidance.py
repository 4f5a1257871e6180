"""Combine the predictions of a denoising step's streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from likeness.method import Stream


def combine(streams: Sequence[Stream], predictions: Mapping[tuple[bool, bool], Tensor] | Sequence[Tensor]) -> Tensor:
    """Weighted sum of predictions in float32 (ST-DRC Eq. 13).

    Args:
        streams: with weights that sum to 1.
        predictions: tensors of one shape, by ``(text, reference)`` or in the order of the streams.

    Returns:
        ``float32`` of the predictions' shape. The order of the streams does not change a bit of it.
    """
    if isinstance(predictions, Mapping):
        terms = [(stream, predictions[stream.text, stream.reference]) for stream in streams]
    else:
        terms = list(zip(streams, predictions, strict=True))
    # Adding floats depends on the order, so the order is made to depend on the conditions alone.
    terms.sort(key=lambda term: (term[0].text, term[0].reference, term[0].weight))
    (first, prediction), *rest = terms
    combined = prediction.float() * first.weight
    for stream, prediction in rest:
        combined = combined.add(prediction.float(), alpha=stream.weight)
    return combined
