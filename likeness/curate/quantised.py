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

Where only large cosines are sought, half of a code rules out nearly all pairs. Let codes ``(a, b)`` and ``(a', b')`` be cut in two and
``|b| <= f``, ``|b'| <= f'``; then

    a . a' + b . b' <= a . a' + f f'

and the right side is a product of half the size, of ``(a, f)`` and ``(a', f')``. Between strangers it stands for about 0.5, far below
0.7. What the other halves add is computed for the pairs that are left (:class:`Half`), whose products are then what they were.
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

from likeness.curate.cosine import CHUNK_PAIRS, CHUNK_ROWS

# What the products are computed in. All give the same pairs; int8 is the fastest where the processor has instructions for it.
Prefilter = Literal["int8", "bfloat16", "float32"]

Number = TypeVar("Number", float, np.ndarray)

CLIP_SIGMAS = (
    5.0  # the largest number of an int8 code, in standard deviations: larger ones are cut, which is a large error
)
UNEVEN = 0.015  # mean error of codes beyond which vectors are turned
HALVED_LOW = 0.6  # least cosine, and widths, for which half of a code rules out nearly all pairs
HALVED_WIDTHS = range(256, 2049)
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
        half: where ``values`` are halves, whose products are upper bounds: the other halves.
    """

    values: Tensor
    errors: np.ndarray
    unit: float
    slack: float
    half: Half | None = None

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


@dataclass(frozen=True, eq=False)
class Half:
    """The halves of int8 codes that are left out of a first look.

    Attributes:
        values: ``int8 [N', D'']``, ``b``.
        filled: ``int32 [N']``; that many are in each of ``places`` numbers of the other half, so that ``f^2 = places * filled^2``.
        places: several, since ``f`` is too large for one.
    """

    values: Tensor
    filled: Tensor
    places: int

    def rest(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """What makes bounds products, ``b . b' - f f'``: ``int64 [P]``, for pairs of rows ``[P]``."""
        values, filled = self.values.numpy(), self.filled.numpy()
        rest = np.empty(len(first), np.int64)
        for start in range(0, len(first), CHUNK_PAIRS):
            part = slice(start, start + CHUNK_PAIRS)
            i, j = first[part], second[part]
            # Exact: whole numbers below 2^24 all the way.
            sums = np.einsum("pd,pd->p", values[i].astype(np.float32), values[j].astype(np.float32))
            rest[part] = sums.astype(np.int64) - self.places * filled[i] * filled[j]
        return rest

    def product(self, first: slice, second: slice) -> Tensor:
        """The same for two blocks of rows, ``int32 [rows of first, rows of second]``."""
        rest = torch._int_mm(self.values[first], self.values[second].T)
        return rest.sub_(torch.outer(self.places * self.filled[first], self.filled[second]))


def encode(
    vectors: np.ndarray, norms: np.ndarray, prefilter: Prefilter, block: int, device: torch.device, low: float = -1.0
) -> Codes:
    """Codes of some vectors.

    Args:
        vectors: ``float16 or float32 [N, D]``, not zero, of any length; may be mapped from a file.
        norms: ``float64 [N]``, their lengths.
        prefilter: the format of the codes. Where int8 products are not to be trusted (processors without instructions for
            them saturate sums) float32 is taken.
        block: the number of codes is filled up to a multiple of it.
        device: where they will be multiplied.
        low: the least cosine that is sought. On a CPU a large one has codes halved; a GPU would wait for its memory instead.
    """
    count, width = vectors.shape
    padded = (-(-count // block) * block, -(-width // 16) * 16)  # kernels want multiples of 16 numbers
    if prefilter == "int8" and not _multiplies_exactly(padded[1], device):
        prefilter = "float32"
    codes = _encoded(vectors, norms, prefilter, padded, None)
    if prefilter == "int8" and codes.errors[:count].mean() > UNEVEN:
        codes = _encoded(vectors, norms, prefilter, padded, _rotation(width))
    if prefilter == "int8" and device.type == "cpu" and low >= HALVED_LOW and width in HALVED_WIDTHS:
        return _halved(codes)
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


def _halved(codes: Codes) -> Codes:
    """The same codes, cut in two."""
    kept = codes.values.shape[1] // 32 * 16
    half = codes.values[:, kept:].contiguous()
    squares = torch.cat(
        [torch.linalg.vecdot(rows, rows).double() for rows in map(Tensor.float, half.split(CHUNK_ROWS))]
    )
    places = -(-int(squares.max()) // (16 * 127**2)) * 16  # kernels want multiples of 16 numbers
    filled = torch.ceil(torch.sqrt(squares / places)).to(torch.int32)
    filled += places * filled.double() ** 2 < squares  # where the root was rounded down
    values = torch.empty(len(half), kept + places, dtype=torch.int8)
    values[:, :kept] = codes.values[:, :kept]
    values[:, kept:] = filled[:, None]
    return replace(codes, values=values, half=Half(half, filled, places))


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
