"""Cheap products: never further from the cosine than they say, for any vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from likeness.curate.bands import Band
from likeness.curate.cosine import lengths
from likeness.curate.mining import mine
from likeness.curate.quantised import encode, full_precision

CPU = torch.device("cpu")


def _heavy(rng: np.random.Generator) -> np.ndarray:
    """As from CLIP: most of the length in two numbers, and a common direction."""
    vectors = rng.standard_normal((300, 96))
    vectors[:, 5] += 30
    vectors[:, 17] *= 12
    return vectors


KINDS = {
    "normal": lambda rng: rng.standard_normal((300, 512)),
    "one number each": lambda rng: np.eye(300),
    "two numbers": lambda rng: rng.standard_normal((300, 2)),
    "heavy": _heavy,
    "long and short": lambda rng: rng.standard_normal((300, 64)) * 10.0 ** rng.uniform(-3, 3, (300, 1)),
    "all alike": lambda rng: 1 + 1e-3 * rng.standard_normal((300, 40)),
}


@pytest.mark.parametrize("prefilter", ["int8", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_product_is_further_from_the_cosine_than_its_radius(kind: str, prefilter) -> None:
    vectors = KINDS[kind](np.random.default_rng(0)).astype(np.float32)
    norms = lengths(vectors)
    codes = encode(vectors, norms, prefilter, 32, CPU)
    unit = vectors.astype(np.float64) / norms[:, None]
    with full_precision():
        near = codes.product(slice(0, 320), slice(0, 320)).double().numpy() * codes.unit
    assert (near[300:] == 0).all() and (near[:, 300:] == 0).all()
    errors = codes.errors[:300]
    off = np.abs(near[:300, :300] - unit @ unit.T)
    radius = codes.radius(errors[:, None], errors[None])
    assert (off <= radius).all()
    assert off.max() > 0 or kind == "one number each", "there is something to bound"
    limit = {"int8": 0.3 if kind == "two numbers" else 0.06, "bfloat16": 0.02, "float32": 1e-4}[prefilter]
    assert radius.max() < limit, "the bound is of use"


@pytest.mark.parametrize("width", [256, 300, 512, 1024, 2048])
@pytest.mark.parametrize("kind", ["even", "cut", "in one half", "in the other"])
def test_halves_bound_the_product_and_complete_it(kind: str, width: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((120, width)).astype(np.float32)
    if kind == "cut":
        vectors *= rng.uniform(size=vectors.shape) < 0.05  # codes at their largest
    elif kind != "even":
        vectors[:, : width // 2 - 8] *= 1e-3 if kind == "in one half" else 1.0
        vectors[:, width // 2 + 8 :] *= 1e-3 if kind == "in the other" else 1.0
    norms = lengths(vectors)
    whole, halved = encode(vectors, norms, "int8", 32, CPU), encode(vectors, norms, "int8", 32, CPU, low=0.7)
    assert whole.half is None and halved.half is not None
    rows = slice(0, 128)
    product, bound, rest = whole.product(rows, rows), halved.product(rows, rows), halved.half.product(rows, rows)
    assert (bound >= product).all()
    assert torch.equal(bound + rest, product)
    i, j = rng.integers(0, 128, (2, 700))
    assert np.array_equal(halved.half.rest(i, j), rest[i, j].numpy())
    assert np.array_equal(halved.errors, whole.errors)


def test_saturating_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch._int_mm

    def saturating(first, second, out=None):
        return original(first, second).clamp_(-32768, 32767)  # what adding in 16 bits gives

    monkeypatch.setattr(torch, "_int_mm", saturating)
    vectors = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    assert encode(vectors, lengths(vectors), "int8", 32, CPU).values.dtype == torch.float32
    twins = np.concatenate([vectors, vectors + 0.5 * np.roll(vectors, 1, 1)])
    found = mine(twins, np.arange(128), [Band(low=0.7, high=0.95, pick="random")])[0]
    assert (found.index >= 0).all()


def test_full_precision_is_given_back() -> None:
    matmul = torch.backends.cuda.matmul
    before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("medium")
    try:
        with full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not matmul.allow_bf16_reduced_precision_reduction
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before[0])
    assert matmul.allow_bf16_reduced_precision_reduction == before[1]
