"""Cosines of embeddings in float64, the same to the bit wherever they are computed: what decides about a pair."""

from __future__ import annotations

import numpy as np
import torch

from likeness.errors import UserError

CHUNK_ROWS = 256  # rows converted at once: they stay in the cache
CHUNK_PAIRS = 256  # pairs compared at once


def cosines(vectors: np.ndarray, norms: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of pairs of rows in float64, the same to the bit for any number and order of pairs, and for (i, j) and (j, i).

    Sums are made by halves in a fixed order. Of float16 vectors they are exact: such numbers are multiples of 2^-24, their
    products of 2^-48, and a sum below 32 of those fits into a float64.

    Args:
        vectors: ``float16 or float32 [N, D]``.
        norms: ``float64 [N]``, from :func:`lengths`.
        first, second: ``int64 [P]``, row numbers.

    Returns:
        ``float64 [P]``.
    """
    dots = np.empty(len(first))
    for start in range(0, len(first), CHUNK_PAIRS):
        part = slice(start, start + CHUNK_PAIRS)
        dots[part] = _sums(_products(vectors[first[part]], vectors[second[part]]))
    return dots / (norms[first] * norms[second])


def lengths(vectors: np.ndarray, start: int = 0) -> np.ndarray:
    """Lengths of embeddings ``[N, D]``, ``float64 [N]``; the first is number ``start``, for messages.

    Raises:
        UserError: embeddings without numbers, or one that is zero or not finite.
    """
    if vectors.ndim != 2 or vectors.shape[1] < 2:
        raise UserError(
            f"Embeddings were given as {list(vectors.shape)}; cosines need [faces, numbers] with at least 2 numbers. Curate "
            "with a folder of face models that has a recogniser."
        )
    norms = np.empty(len(vectors))
    for low in range(0, len(vectors), CHUNK_ROWS):
        part = slice(low, low + CHUNK_ROWS)
        norms[part] = np.sqrt(_sums(_products(vectors[part], vectors[part])))
    bad = np.flatnonzero(~(norms > 0) | ~np.isfinite(norms))
    if len(bad):
        raise UserError(
            f"The embedding of face {start + bad[0]} (counted from 0) is zero or not finite, as are {len(bad) - 1} others; it has no "
            "cosine. Measure its clip again."
        )
    return norms


def _products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Products ``[P, D]`` of numbers, number by number: ``float64``, or ``float32`` where that is exact, which is faster."""
    if first.dtype != np.float16:
        return first.astype(np.float64) * second
    wide = [torch.tensor(rows).float() for rows in (first, second)]  # 11 bits each; numpy takes ten times as long
    return (wide[0] * wide[1]).numpy()


def _sums(products: np.ndarray) -> np.ndarray:
    """Sums of the rows of ``[P, D]`` in float64, always added in the same order."""
    width = products.shape[1]
    while width > 1:
        half = width // 2
        folded = np.add(products[:, :half], products[:, half : 2 * half], dtype=np.float64)
        if width % 2:
            folded[:, 0] += products[:, -1]
        products, width = folded, half
    return products[:, 0]
