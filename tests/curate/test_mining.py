"""Mining pairs: exactly those of a comparison of all with all, however the work is cut up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from likeness.curate.bands import Band, Best, Picks
from likeness.curate.cosine import cosines, lengths
from likeness.curate.mining import Found, Search, mine
from likeness.errors import UserError

CROSS = Band(low=0.7, high=0.9, pick="random")
TRADE_OFF = Band(low=0.9, high=0.99, pick="smallest")
CLOSED = Band(low=0.87, high=0.97, pick="random", closed=True)


def people(count: int, width: int = 64, per_person: int = 12, seed: int = 0) -> np.ndarray:
    """``float16 [N, D]``: faces of people who look more or less like themselves, some of them twice, some alone."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(count // per_person, 1), width)) / width**0.5
    spread = rng.uniform(0.05, 0.9, (count, 1))
    vectors = centres[rng.integers(0, len(centres), count)] + spread * rng.standard_normal((count, width)) / width**0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    twins = rng.integers(0, count, count // 10)
    vectors[rng.permutation(count)[: len(twins)]] = vectors[twins]
    return vectors.astype(np.float16)


def on_the_edge(cosine: float, count: int = 40, width: int = 64) -> np.ndarray:
    """``float32 [2 count, D]``: pairs whose cosine is ``cosine`` give or take the rounding of float32."""
    rng = np.random.default_rng(1)
    first = rng.standard_normal((count, width))
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    other = rng.standard_normal((count, width))
    other -= (other * first).sum(1, keepdims=True) * first
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    wanted = cosine + rng.uniform(-2, 2, (count, 1)) * 1e-8
    return np.concatenate([first, wanted * first + np.sqrt(1 - wanted**2) * other]).astype(np.float32)


def all_cosines(vectors: np.ndarray) -> np.ndarray:
    """Every cosine ``float64 [N, N]`` by one matrix product; exact sums for float16, so the order of adding is no matter."""
    exact = vectors.astype(np.float64)
    products = exact @ exact.T
    norms = np.sqrt(np.diag(products))
    return products / (norms[:, None] * norms)


def candidates(cosine: np.ndarray, groups: np.ndarray, band: Band) -> np.ndarray:
    """Which face may be given to which, ``bool [N, N]``."""
    above = cosine <= band.high if band.closed else cosine < band.high
    allowed = (cosine >= band.low) & above & (groups[:, None] != groups)
    return allowed if band.seekers is None else allowed & band.seekers[:, None]


def check(found: list[Picks], vectors: np.ndarray, groups: np.ndarray, bands: list[Band]) -> None:
    """Each face has a partner exactly if it has a candidate; the partner is one, the least similar where that is asked."""
    cosine = all_cosines(vectors)
    rows = np.arange(len(vectors))
    for picks, band in zip(found, bands, strict=True):
        allowed = candidates(cosine, groups, band)
        assert np.array_equal(picks.index >= 0, allowed.any(1))
        has = allowed.any(1)
        assert allowed[rows[has], picks.index[has]].all()
        assert np.array_equal(picks.cosine[has], cosine[rows[has], picks.index[has]])
        assert np.isnan(picks.cosine[~has]).all()
        if band.pick == "smallest":
            assert np.array_equal(picks.cosine[has], np.where(allowed, cosine, 2.0).min(1)[has])


def same(first: list[Picks], second: list[Picks]) -> bool:
    """Whether two results are equal to the bit."""
    pairs = list(zip(first, second, strict=True))
    return all(a.index.tobytes() == b.index.tobytes() and a.cosine.tobytes() == b.cosine.tobytes() for a, b in pairs)


@pytest.mark.parametrize("prefilter", ["int8", "bfloat16", "float32"])
def test_pairs_are_those_of_a_comparison_of_all(prefilter) -> None:
    vectors, groups = people(2000), np.arange(2000) // 2
    bands = [CROSS, TRADE_OFF, CLOSED]
    found = mine(vectors, groups, bands, prefilter=prefilter, block=256)
    check(found, vectors, groups, bands)
    assert all(700 < (picks.index >= 0).sum() < 2000 for picks in found[:2])


@pytest.mark.parametrize("crowded", [0, 2, 10**9])
def test_half_of_a_code_loses_no_hit_and_lets_none_through(crowded: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, groups = people(1500, width=512), np.arange(1500)
    bands = [CROSS, TRADE_OFF]
    monkeypatch.setattr("likeness.curate.mining.CROWDED", crowded)
    halved = Search.prepare(vectors, groups, bands, block=256, device="cpu")
    monkeypatch.setattr("likeness.curate.quantised.HALVED_WIDTHS", ())
    whole = Search.prepare(vectors, groups, bands, block=256, device="cpu")
    assert halved.codes.half is not None and whole.codes.half is None
    assert halved.codes.values.shape[1] < 0.6 * whole.codes.values.shape[1]

    def hits(search: Search) -> set[tuple[int, int, float]]:
        found = Found([Best.empty(1500) for _ in bands])
        return {
            hit for part in search.hits(found, search.tiles()) for hit in zip(*(x.tolist() for x in part), strict=True)
        }

    assert hits(halved) == hits(whole)
    found = halved.run(halved.tiles())
    assert found.hits == len(hits(whole))
    check(halved.picks(found), vectors, groups, bands)


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_the_result_does_not_depend_on_how_the_work_is_cut_up(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 400), "faces")
    vectors, groups = (
        people(count, width=data.draw(st.sampled_from([2, 7, 16, 40, 256, 300]), "numbers")),
        np.arange(count) // 3,
    )
    bands, seed = [CROSS, TRADE_OFF, CLOSED], data.draw(st.integers(0, 2**63), "seed")
    expected = mine(vectors, groups, bands, seed=seed, prefilter="float32", block=512)
    block = data.draw(st.integers(1, 300), "block")
    workers = data.draw(st.integers(1, 3), "workers")
    assert same(mine(vectors, groups, bands, seed=seed, workers=workers, block=block), expected)

    search = Search.prepare(vectors, groups, bands, seed=seed, block=block)
    tiles = data.draw(st.permutations(search.tiles()), "order")
    cut = data.draw(st.integers(0, len(tiles)), "cut")
    shards = [search.run(tiles[:cut]), search.run(tiles[cut:])]
    first, second = data.draw(st.permutations(shards), "order of merging")
    first.merge(second)
    assert first.tiles == len(tiles)
    assert same(search.picks(first), expected)
    check(expected, vectors, groups, bands)


def test_with_names_the_order_of_the_rows_does_not_matter() -> None:
    vectors, keys = people(500), np.random.default_rng(3).integers(0, 2**64, 500, dtype=np.uint64)
    groups = np.arange(500)
    order = np.random.default_rng(4).permutation(500)
    straight = mine(vectors, groups, [CROSS], keys=keys)[0].index
    shuffled = mine(vectors[order], groups[order], [CROSS], keys=keys[order])[0].index
    chosen = np.where(shuffled >= 0, order[shuffled], -1)
    assert np.array_equal(chosen, straight[order])
    assert not np.array_equal(mine(vectors, groups, [CROSS], seed=1, keys=keys)[0].index, straight)


@pytest.mark.parametrize("edge", [0.7, 0.87, 0.9, 0.97, 0.99])
def test_the_edge_is_decided_exactly(edge: float) -> None:
    vectors = on_the_edge(edge)
    count = len(vectors) // 2
    norms = lengths(vectors)
    exact = cosines(vectors, norms, np.arange(count), np.arange(count) + count)
    inside = exact >= edge
    assert 5 < inside.sum() < count - 5, "the pairs lie on both sides"
    above, below = mine(
        vectors,
        np.arange(2 * count),
        [Band(low=edge, high=1, pick="random"), Band(low=0.5, high=edge, pick="smallest")],
    )
    assert np.array_equal(above.index[:count] >= 0, inside)
    assert np.array_equal(below.index[:count] >= 0, ~inside)
    assert np.array_equal(above.cosine[count:][inside], exact[inside]), "the same to the bit from the other side"


def test_open_and_closed_ends() -> None:
    vectors = np.array([[3, 4], [5, 0]], np.float16)  # cos = 0.6, the nearest float64 to it

    def found(**band) -> bool:
        return mine(vectors, np.arange(2), [Band(pick="random", **band)])[0].index[0] == 1

    assert found(low=0.6, high=0.7) and found(low=0.5, high=0.6, closed=True)
    assert not found(low=0.5, high=0.6) and not found(low=np.nextafter(0.6, 1), high=0.7)


def test_cosines_are_those_of_exact_sums() -> None:
    halves, singles = people(60, width=512), on_the_edge(0.9, width=511)
    pairs = np.triu_indices(60)
    assert np.array_equal(cosines(halves, lengths(halves), *pairs), all_cosines(halves)[pairs])
    assert np.abs(cosines(singles, lengths(singles), *pairs) - all_cosines(singles)[pairs]).max() < 1e-15
    swapped = cosines(singles, lengths(singles), *pairs[::-1])
    assert np.array_equal(swapped, cosines(singles, lengths(singles), *pairs))
    one_by_one = [cosines(singles, lengths(singles), *(index[k : k + 1] for index in pairs))[0] for k in range(50)]
    assert np.array_equal(one_by_one, swapped[:50])


def test_the_least_similar_is_found_among_many_that_are_nearly_as_dissimilar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("likeness.curate.mining.CHUNK_PAIRS", 50)  # so that much is pruned by what was found before
    rng = np.random.default_rng(2)
    directions = rng.standard_normal((600, 256))
    directions[:, 0] = 0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cosine = 0.96 + 2e-4 * rng.uniform(-1, 1, (600, 1))  # to one centre; int8 is off by more than they differ
    vectors = np.sqrt(1 - cosine**2) * directions
    vectors[:, 0] = cosine[:, 0]
    vectors = np.concatenate([np.eye(1, 256), vectors]).astype(np.float16)
    band = Band(low=0.9, high=0.99, pick="smallest", seekers=np.arange(601) == 0)
    for block in (64, 640):
        check(mine(vectors, np.arange(601), [band], block=block), vectors, np.arange(601), [band])


def test_seekers_and_pool() -> None:
    vectors, groups = people(600), np.arange(600)
    seekers, pool = np.arange(600) % 2 == 0, np.arange(600) % 3 == 0
    band = Band(low=0.7, high=0.9, pick="smallest", seekers=seekers, pool=pool)
    found = mine(vectors, groups, [band], block=64)[0]
    cosine = all_cosines(vectors)
    allowed = candidates(cosine, groups, band) & pool
    assert 20 < allowed.any(1).sum() < 300
    assert np.array_equal(found.index >= 0, allowed.any(1))
    least = np.where(allowed, cosine, 2.0).min(1)
    assert np.array_equal(found.cosine[found.index >= 0], least[found.index >= 0])


def test_random_picks_are_uniform_and_independent() -> None:
    count, num_people, runs = 16, 25, 10
    alike = np.eye(count) + 0.5  # cos = 0.83 between any two faces of a person, 0 between people
    vectors = np.kron(np.eye(num_people), alike).astype(np.float16)
    rows = np.arange(len(vectors))
    picked = np.stack([mine(vectors, rows, [CROSS], seed=seed)[0].index for seed in range(runs)])
    assert np.array_equal(picked // count, np.broadcast_to(rows // count, picked.shape))
    picked = picked.reshape(-1, count) % count  # [runs x people, count]
    runs = len(picked)
    groups = np.arange(count)
    pairs = np.zeros((count, count))
    np.add.at(pairs, (np.tile(groups, runs), picked.ravel()), 1)
    assert (np.diag(pairs) == 0).all()
    expected = runs / (count - 1)
    off_diagonal = pairs[~np.eye(count, dtype=bool)]
    chi_square = ((off_diagonal - expected) ** 2 / expected).sum()
    freedom = count * (count - 2)
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5
    mutual = np.mean([np.take_along_axis(row, row, 0) == groups for row in picked])  # i picks j and j picks i
    assert abs(mutual - 1 / (count - 1)) < 4 * (1 / (count - 1) / (count * runs / 2)) ** 0.5


def test_equal_cosines_are_drawn_among() -> None:
    vectors = np.array([[3, 4]] + [[5, 0]] * 8, np.float16)
    band = Band(low=0.5, high=0.7, pick="smallest")
    chosen = {int(mine(vectors, np.arange(9), [band], seed=seed)[0].index[0]) for seed in range(60)}
    assert chosen == set(range(1, 9))


def test_where_everybody_looks_alike_memory_and_comparisons_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal(64) + 0.45 * rng.standard_normal((1500, 64))).astype(np.float16)  # cos about 0.83
    held: list[int] = []
    original = Search._reduce_all

    def reduce(self, found, hits):
        held.append(sum(len(i) for i, _, _ in hits))
        original(self, found, hits)

    monkeypatch.setattr(Search, "_reduce_all", reduce)
    monkeypatch.setattr("likeness.curate.mining.CHUNK_PRODUCTS", 2**14)
    monkeypatch.setattr("likeness.curate.mining.CHUNK_PAIRS", 2**13)
    search = Search.prepare(vectors, np.arange(1500), [CROSS], block=256)
    found = search.run(search.tiles())
    check(search.picks(found), vectors, np.arange(1500), [CROSS])
    num_pairs = 1500 * 1499 // 2
    assert found.hits > 0.9 * num_pairs and sum(held) == found.hits
    assert max(held) < 2**14 + 2**13 and len(held) > 40, "pairs are not collected"
    assert found.compared < 0.25 * num_pairs, "most pairs need no exact look"
    sizes = {value.shape[0] for best in found.best for value in vars(best).values()}
    assert sizes == {1500}, "what is kept grows with the faces, not with their pairs"


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.zeros((3, 8), np.float16), "face 0 .* is zero or not finite"),
        (np.array([[1, 0], [np.nan, 1]], np.float32), "face 1 "),
        (np.ones((5, 1), np.float32), "recogniser"),
    ],
)
def test_embeddings_without_a_cosine_are_refused(vectors: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mine(vectors, np.arange(len(vectors)), [CROSS])


def test_an_interruption_ends_the_threads_and_leaves_torch_as_it_was() -> None:
    num_threads, seen = torch.get_num_threads(), []

    def interrupt(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    vectors = people(2000)
    with pytest.raises(KeyboardInterrupt):
        mine(vectors, np.arange(2000), [CROSS], workers=2, block=32, on_progress=interrupt)
    assert len(seen) == 1 and torch.get_num_threads() == num_threads

    calls: list[tuple[int, int]] = []
    mine(vectors, np.arange(2000), [CROSS], block=512, on_progress=lambda *call: calls.append(call))
    assert calls[-1] == (10, 10)


def test_an_error_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Best, "offer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        mine(people(300), np.arange(300), [CROSS], workers=2, block=32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same_pairs() -> None:
    vectors, groups = people(5000, width=512), np.arange(5000)
    bands = [CROSS, TRADE_OFF]
    expected = mine(vectors, groups, bands, device="cpu")
    for prefilter in ("int8", "bfloat16", "float32"):
        assert same(mine(vectors, groups, bands, device="cuda", prefilter=prefilter, block=2048), expected)
