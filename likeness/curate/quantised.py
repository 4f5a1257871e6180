"""Cheap cosines that cannot miss: embeddings in few bits, with a proven bound on how far each product is from the truth.

Comparing all faces with all others is a matrix product, and int8 products are several times as fast as float32. They are
off by a little, so they decide nothing: they only say which pairs are worth an exact look (:mod:`likeness.curate.mining`).
That is safe because the error is bounded, not estimated. Let ``x`` and ``y`` be unit vectors and ``x'`` and ``y'`` what
their codes stand for; by Cauchy and Schwarz

    |x . y - x' . y'| = |(x - x') . y + x' . (y - y')| <= e_x + (1 + e_x) e_y,      e_x = |x - x'|

and ``e_x`` is measured for each vector while it is encoded. What rounding adds on the way is in ``slack``.

An int8 code has one step for all vectors and all numbers of them, so that one integer threshold serves a whole block of
products. ArcFace spreads vectors evenly over their numbers, and a code is wrong by about 0.011. Models such as CLIP put most
of a vector into a few numbers; where codes turn out bad, the vectors are turned first, by a random rotation, which leaves
cosines as they are and spreads every vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from likeness.curate.cosine import CHUNK_ROWS

# What the products are computed in. All give the same pairs; int8 is the fastest where the processor has instructions for it.
Prefilter = Literal["int8", "bfloat16", "float32"]

Number = TypeVar("Number", float, np.ndarray)

CLIP_SIGMAS = (
    5.0  # the largest number of an int8 code, in standard deviations: larger ones are cut, which is a large error
)
UNEVEN = 0.015  # mean error of codes beyond which vectors are turned
_UNIT_ROUNDOFF = 2.0**-24  # float32
_BF16_ROUNDOFF = 2.0**-9  # bfloat16, of what is below 1


@dataclass(frozen=True, eq=False)
class Codes:
    """Unit vectors in few bits.

    Attributes:
        values: ``[N', D']`` on the device that multiplies; zeros below and beside the vectors fill up whole blocks.
        errors: ``float64 [N']``, the distance between a unit vector and what its code stands for.
        unit: the cosine that a product of 1 stands for.
        slack: what rounding may add to the difference between a product and the cosine.
    """

    values: Tensor
    errors: np.ndarray
    unit: float
    slack: float

    def product(self, first: slice, second: slice, out: Tensor | None = None) -> Tensor:
        """Products of two blocks of codes, ``[rows of first, rows of second]``, written into ``out`` if given."""
        multiply = torch._int_mm if self.values.dtype == torch.int8 else torch.mm
        return multiply(self.values[first], self.values[second].T, out=out)

    def radius(self, first: Number, second: Number) -> Number:
        """How far ``unit * product`` may be from the cosine, for pairs of vectors with these ``errors``."""
        return first + second + first * second + self.slack

    def least(self, low: float, first: float, second: float) -> float:
        """The least product that a cosine of ``low`` can have, between vectors with errors up to ``first`` and ``second``."""
        least = (low - self.radius(first, second)) / self.unit
        return least if self.values.is_floating_point() else math.floor(least)  # compared as whole numbers


def encode(vectors: np.ndarray, norms: np.ndarray, prefilter: Prefilter, block: int, device: torch.device) -> Codes:
    """Codes of some vectors.

    Args:
        vectors: ``float16 or float32 [N, D]``, not zero, of any length; may be mapped from a file.
        norms: ``float64 [N]``, their lengths.
        prefilter: the format of the codes. Where int8 products are not to be trusted (processors without instructions for
            them saturate sums) float32 is taken.
        block: the number of codes is filled up to a multiple of it.
        device: where they will be multiplied.
    """
    count, width = vectors.shape
    padded = (-(-count // block) * block, -(-width // 16) * 16)  # kernels want multiples of 16 numbers
    if prefilter == "int8" and not _multiplies_exactly(padded[1], device):
        prefilter = "float32"
    codes = _encoded(vectors, norms, prefilter, padded, None)
    if prefilter == "int8" and codes.errors[:count].mean() > UNEVEN:
        codes = _encoded(vectors, norms, prefilter, padded, _rotation(width))
    return replace(codes, values=codes.values.to(device))


def _encoded(
    vectors: np.ndarray, norms: np.ndarray, prefilter: Prefilter, padded: tuple[int, int], rotation: np.ndarray | None
) -> Codes:
    """Codes ``padded``, on the CPU, of vectors that are turned by ``rotation``, ``float32 [D, D]``."""
    count, width = vectors.shape
    values = torch.zeros(padded, dtype=getattr(torch, prefilter))
    errors = np.zeros(padded[0])
    unit = (CLIP_SIGMAS / 127) ** 2 / width if prefilter == "int8" else 1.0
    step = unit**0.5
    for start in range(0, count, CHUNK_ROWS):
        chunk = slice(start, min(start + CHUNK_ROWS, count))
        exact = vectors[chunk].astype(np.float32) / norms[chunk, None].astype(np.float32)
        if rotation is not None:
            exact = exact @ rotation  # numpy: torch may be set to multiply float32 in fewer bits
        codes = torch.from_numpy(exact) / step
        codes = (codes.round_().clamp_(-127, 127) if prefilter == "int8" else codes).to(values.dtype)
        values[chunk, :width] = codes
        rest = exact - np.float32(step) * codes.float().numpy()
        errors[chunk] = 1.0001 * np.sqrt(np.einsum("nd,nd->n", rest, rest)) + 4 * _UNIT_ROUNDOFF
    slack = 8 * _UNIT_ROUNDOFF  # of two unit vectors, a product and a threshold, in float32
    if prefilter != "int8":
        slack += _sum_error(width)
    if prefilter == "bfloat16":
        slack += 2 * _BF16_ROUNDOFF  # of a product, and of the threshold held against it
    if rotation is not None:
        exact = rotation.astype(np.float64)
        slack += 2 * float(np.linalg.norm(exact @ exact.T - np.eye(width)))  # what it does to a cosine, at most
        errors[:count] += _sum_error(width) * width**0.5  # of the product with it
    return Codes(values, errors, unit, slack)


def _rotation(width: int) -> np.ndarray:
    """A random rotation, ``float32 [D, D]``, always the same."""
    return np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0].astype(np.float32)


def _sum_error(width: int) -> float:
    """Error of a product of two unit vectors of ``width`` numbers whose sum is kept in float32, in any order."""
    return 1.01 * (width + 16) * _UNIT_ROUNDOFF


def _multiplies_exactly(width: int, device: torch.device) -> bool:
    """Whether int8 products are right where they are largest."""
    signs = np.where(np.random.default_rng(0).random((64, width)) < 0.5, -127, 127)
    signs[:2] = 127
    codes = torch.from_numpy(signs.astype(np.int8)).to(device)
    return np.array_equal(torch._int_mm(codes, codes.T).cpu().numpy(), signs @ signs.T)


@contextmanager
def full_precision() -> Iterator[None]:
    """While it lasts, torch adds float32 and bfloat16 products in float32, whatever the program chose: the bounds need it."""
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        matmul.allow_bf16_reduced_precision_reduction = before[1]
