"""Pairs: who is given to whom, in which order, and what is left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from likeness.curate.config import Pairing
from likeness.curate.face_table import FaceTable, read_faces
from likeness.curate.pairs import PairTable, build_pairs, write_pairs
from likeness.errors import UserError

PAPER = Pairing()
WIDTH = 32


def at(cosine: float, person: int, direction: int) -> np.ndarray:
    """A unit vector at a cosine from the centre of a person; different directions are orthogonal besides."""
    vector = np.zeros(WIDTH)
    vector[person], vector[8 + direction] = cosine, (1 - cosine**2) ** 0.5
    return vector


def table(*faces: tuple, sources: list[int] | None = None, names: bool = False) -> FaceTable:
    """Faces of ``(clip, track, number, centre_x, mean_x, embedding)``."""
    clip, track, number, centre_x, mean_x, embeddings = (list(column) for column in zip(*faces, strict=True))
    clips = np.array(clip, np.int64)
    return FaceTable(
        clip=clips,
        source=clips if sources is None else np.array(sources, np.int64)[clips],
        track=np.array(track, np.int64),
        number=np.array(number, np.int64),
        centre_x=np.array(centre_x, float),
        mean_x=np.array(mean_x, float),
        embeddings=np.array(embeddings, np.float32),
        name=np.array(clip, np.uint64) * 100 if names else None,
    )


def singles(*embeddings: np.ndarray, sources: list[int] | None = None) -> FaceTable:
    """Clips of one person and one picture each."""
    return table(*((k, 0, 0, 0.5, 0.5, embedding) for k, embedding in enumerate(embeddings)), sources=sources)


def listed(pairs: PairTable) -> list[tuple[int, list[int]]]:
    """Clip and references of each pair."""
    return [(int(clip), row[row >= 0].tolist()) for clip, row in zip(pairs.clip, pairs.references, strict=True)]


def test_pretraining_pairs_are_every_picture_of_a_clip_in_turn() -> None:
    faces = table(*((clip, 0, number, 0.5, 0.5, at(1, clip, 0)) for clip in (3, 1) for number in (2, 0, 1)))
    pairs = build_pairs(faces, PAPER)
    assert listed(pairs["pretraining"]) == [(1, [4]), (1, [5]), (1, [3]), (3, [1]), (3, [2]), (3, [0])]
    assert np.isnan(pairs["pretraining"].cosines).all() and not pairs["pretraining"].same_source.any()
    assert len(pairs["cross"]) == len(pairs["tradeoff"]) == 0


def test_cross_and_trade_off_pairs_of_one_person() -> None:
    a, b = at(1, 0, 0), at(0.8, 0, 1)  # 0.8 apart
    c, d = at(0.95, 0, 2), at(0.92, 0, 3)  # a-c 0.95, a-d 0.92, c-d 0.874, b-c 0.76, b-d 0.736
    alone = at(1, 5, 0)
    pairs = build_pairs(singles(a, b, c, d, alone), PAPER)
    assert listed(pairs["tradeoff"]) == [(0, [3]), (2, [0]), (3, [0])], "the least similar of those in the band"
    assert np.allclose(pairs["tradeoff"].cosines[:, 0], [0.92, 0.95, 0.92], atol=1e-6)
    cross = dict(listed(pairs["cross"]))
    assert set(cross) == {0, 1, 2, 3}
    assert cross[0] == [1] and cross[1][0] in (0, 2, 3) and cross[2][0] in (1, 3) and cross[3][0] in (1, 2)

    chosen = {
        tuple(map(tuple, (refs for _, refs in listed(build_pairs(singles(a, b, c, d), Pairing(seed=seed))["cross"]))))
        for seed in range(40)
    }
    assert len(chosen) == 1 * 3 * 2 * 2, "every choice comes up"


def test_the_first_picture_is_compared_and_given() -> None:
    near, far = at(0.8, 0, 1), at(1, 4, 0)
    faces = table(
        (0, 0, 1, 0.5, 0.5, far), (0, 0, 0, 0.5, 0.5, at(1, 0, 0)), (1, 0, 0, 0.5, 0.5, near), (1, 0, 1, 0.5, 0.5, far)
    )  # fmt: skip
    assert listed(build_pairs(faces, PAPER)["cross"]) == [(0, [2]), (1, [1])]


def two_people(clip: int, left: np.ndarray, right: np.ndarray, *, swapped: bool = False) -> list[tuple]:
    """A clip of two people; ``swapped`` gives the left one track 1."""
    return [(clip, int(swapped), 0, 0.3, 0.3, left), (clip, int(not swapped), 0, 0.7, 0.7, right)]


def test_two_people_need_a_partner_each_and_stand_from_left_to_right() -> None:
    a, b, a2, b2 = at(1, 0, 0), at(1, 1, 0), at(0.9, 0, 1), at(0.9, 1, 2)
    faces = table(
        *two_people(0, a, b),  # rows 0, 1
        *two_people(1, b2, a2, swapped=True),  # rows 2, 3: the same people the other way round
        *two_people(2, at(0.95, 0, 3), at(1, 6, 0)),  # the right one is a stranger
    )
    pairs = build_pairs(faces, PAPER)
    # Person 0 of clip 0 has two candidates, rows 3 and 4.
    cross = dict(listed(pairs["cross"]))
    assert set(cross) == {0, 1}
    assert cross[0][0] in (3, 4) and cross[0][1] == 2
    assert cross[1] == [1, 0], "the cosine of rows 3 and 4 is 0.855, below the band"
    assert np.allclose(pairs["cross"].cosines[1], [0.9, 0.9], atol=1e-6)
    assert len(pairs["tradeoff"]) == 0
    assert [clip for clip, _ in listed(pairs["pretraining"])] == [0, 1, 2]
    assert dict(listed(pairs["pretraining"]))[1] == [2, 3], "left to right, whatever the numbers of the tracks"


def test_people_of_one_are_paired_among_themselves_and_people_of_several_with_all() -> None:
    a, b = at(1, 0, 0), at(1, 1, 0)
    faces = table(*two_people(0, a, b), (1, 0, 0, 0.5, 0.5, at(0.89, 0, 1)), (2, 0, 0, 0.5, 0.5, at(0.89, 1, 2)))
    cross = listed(build_pairs(faces, PAPER)["cross"])
    assert cross == [(0, [2, 3])], "clips 1 and 2 see clip 0 in their band, but it has two people"


def test_both_ends_of_the_band_of_several_people_count() -> None:
    end = np.zeros(WIDTH)
    end[0], end[9] = 3, 4
    start = np.zeros(WIDTH)
    start[0] = 5  # cos = 0.6, the nearest float64 to it
    other = np.eye(WIDTH)
    faces = table(*two_people(0, start, other[3]), *two_people(1, end, other[4]))
    exact = Pairing(several=(0.3, 0.6), min_matched=1)
    three = [(clip, 2, 0, 0.9, 0.9, other[5 + clip]) for clip in (0, 1)]
    assert listed(build_pairs(faces, exact)["cross"]) == [], "of two people both need a partner"
    faces = table(*two_people(0, start, other[3]), three[0], *two_people(1, end, other[4]), three[1])
    assert listed(build_pairs(faces, exact)["cross"]) == [(0, [3, 1, 2]), (1, [0, 4, 5])]
    assert listed(build_pairs(faces, replace(exact, several=(0.6, 0.9)))["cross"]) == [(0, [3, 1, 2]), (1, [0, 4, 5])]
    assert not len(build_pairs(faces, replace(exact, several=(0.3, 0.5999999)))["cross"])


@pytest.mark.parametrize(("matched", "kept"), [(3, True), (2, True), (1, False)])
def test_of_three_people_two_need_a_partner(matched: int, kept: bool) -> None:
    clip = [(0, p, 0, 0.2 + 0.3 * p, 0.2 + 0.3 * p, at(1, p, 0)) for p in range(3)]
    others = [(1 + p, 0, 0, 0.5, 0.5, at(0.9, p, 1 + p)) for p in range(matched)]
    pairs = build_pairs(table(*clip, *others), PAPER)["cross"]
    assert len(pairs) == kept
    if kept:
        expected = [3, 4, 5][:matched] + [2] * (3 - matched)
        assert listed(pairs) == [(0, expected)]
        assert np.array_equal(np.isnan(pairs.cosines[0]), [False] * matched + [True] * (3 - matched))
    assert len(build_pairs(table(*clip, *others), Pairing(min_matched=3))["cross"]) == (matched == 3)


def test_pictures_where_people_stand_elsewhere_are_discarded() -> None:
    e = at(1, 0, 0)
    faces = table(
        (0, 0, 0, 0.8, 0.3, e), (0, 0, 1, 0.35, 0.3, e), (0, 0, 2, 0.65, 0.3, e),  # the left one, first right of the other
        (0, 1, 0, 0.7, 0.7, e), (0, 1, 1, 0.29, 0.7, e),
        (1, 0, 0, 0.9, 0.1, e), (1, 1, 0, 0.8, 0.8, e),  # nobody is left at the left
        (2, 0, 0, 0.9, 0.1, e),  # alone, anywhere is right
    )  # fmt: skip
    pairs = build_pairs(faces, PAPER)["pretraining"]
    assert listed(pairs) == [(0, [1, 3]), (0, [2, 3]), (2, [7])]


def test_pictures_are_shown_again_where_people_have_different_numbers() -> None:
    e = at(1, 0, 0)
    left = [(0, 0, n, 0.2, 0.2, e) for n in range(2)]
    right = [(0, 1, n, 0.8, 0.8, e) for n in range(3)]
    assert listed(build_pairs(table(*left, *right), PAPER)["pretraining"]) == [(0, [0, 2]), (0, [1, 3]), (0, [0, 4])]


def test_same_source_is_marked_or_left_out() -> None:
    a, b, c = at(1, 0, 0), at(0.8, 0, 1), at(0.75, 0, 2)
    faces = singles(a, b, c, sources=[7, 7, 8])  # b and c are 0.6 apart
    marked = [build_pairs(faces, Pairing(seed=seed))["cross"] for seed in range(20)]
    seen = {(row[1][0], bool(pairs.same_source[0])) for pairs in marked for row in listed(pairs)[:1]}
    assert seen == {(1, True), (2, False)}
    out = build_pairs(faces, Pairing(exclude_same_source=True))["cross"]
    assert listed(out) == [(0, [2]), (2, [0])] and not out.same_source.any()


def test_general_subjects_are_another_table_with_other_bands() -> None:
    """CLIP's embeddings of boxes that an open-set detector found: things are more alike than people's faces."""
    common = np.full(WIDTH, 0.4)
    dog, dog2, cup = common + at(1, 0, 0), common + at(0.9, 0, 1), common + at(1, 1, 5)
    faces = singles(dog, dog2, cup)
    bands = Pairing(cross=(0.93, 0.99), tradeoff=(0.99, 0.999))
    assert listed(build_pairs(faces, bands)["cross"]) == [(0, [1]), (1, [0])]
    assert set(dict(listed(build_pairs(faces, PAPER)["cross"]))) == {0, 1, 2}, "by the bands of faces a cup is the dog"


def test_nobody_and_no_recogniser() -> None:
    faces = singles(at(1, 0, 0), at(0.8, 0, 1))
    blind = replace(faces, embeddings=np.zeros((2, 0), np.float16))
    assert {kind: len(pairs) for kind, pairs in build_pairs(blind, PAPER).items()} == {
        "pretraining": 2, "cross": 0, "tradeoff": 0,
    }  # fmt: skip
    nobody = FaceTable(
        **{name: getattr(faces, name)[:0] for name in ("clip", "source", "track", "number", "centre_x", "mean_x")},
        embeddings=np.zeros((0, 0), np.float16),
    )
    assert all(len(pairs) == 0 for pairs in build_pairs(nobody, PAPER).values())
    with pytest.raises(UserError, match="zero or not finite"):
        build_pairs(singles(at(1, 0, 0), np.zeros(WIDTH)), PAPER)


def crowd(count: int = 400, seed: int = 0) -> FaceTable:
    """Clips of one to three of forty people, with three pictures each, some at the wrong place."""
    rng = np.random.default_rng(seed)
    people = rng.standard_normal((40, WIDTH)) / WIDTH**0.5
    rows = []
    for clip in range(count):
        who = rng.permutation(40)[: rng.integers(1, 4)]
        for track, person in enumerate(who):
            mean = (track + 0.5) / len(who)
            for number in range(3):
                face = people[person] + rng.uniform(0.1, 0.6) * rng.standard_normal(WIDTH) / WIDTH**0.5
                rows.append((clip, track, number, np.clip(mean + rng.normal(0, 0.12), 0, 1), mean, face))
    return table(*rows, sources=list(rng.integers(0, count // 2, count)), names=True)


def test_a_crowd_holds_to_the_rules_and_depends_on_neither_workers_nor_order() -> None:
    faces = crowd()
    pairs = build_pairs(faces, PAPER)
    assert all(len(pairs[kind]) > 20 for kind in pairs)
    unit = np.asarray(faces.embeddings, np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for kind, found in pairs.items():
        assert (np.diff(found.clip) >= 0).all()
        for clip, refs, cosines, same in zip(
            found.clip, found.references, found.cosines, found.same_source, strict=True
        ):
            refs, cosines = refs[refs >= 0], cosines[refs >= 0]
            own = faces.clip[refs] == clip
            assert np.array_equal(own, np.isnan(cosines))
            assert same == (faces.source[refs] == faces.source[np.flatnonzero(faces.clip == clip)[0]])[~own].any()
            band = (0.87, 0.97) if len(refs) > 1 else {"cross": (0.7, 0.9), "tradeoff": (0.9, 0.99)}.get(kind, (0, 0))
            assert ((cosines[~own] >= band[0]) & (cosines[~own] <= band[1])).all()
            if kind == "pretraining":
                assert own.all() and (np.diff(faces.mean_x[refs]) > 0).all()
            else:
                assert (~own).sum() >= (1 if len(refs) == 1 else 2)

    again = build_pairs(faces, PAPER, workers=3)
    order = np.random.default_rng(1).permutation(len(faces))
    shuffled = build_pairs(
        replace(faces, **{name: getattr(faces, name)[order] for name in vars(faces)}), PAPER, workers=2
    )
    for kind, found in pairs.items():
        for other, names in ((again[kind], np.arange(len(faces))), (shuffled[kind], order)):
            references = np.where(other.references >= 0, names[other.references], -1)
            assert np.array_equal(other.clip, found.clip) and np.array_equal(references, found.references)
            assert np.array_equal(other.cosines, found.cosines, equal_nan=True)


def test_through_the_files_of_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = crowd(60)
    half = np.asarray(faces.embeddings, np.float16)
    num_clips = 60
    keys = [f"{number * 7919 + 2**63:016x}" for number in range(num_clips)]
    paths = [f"video{number}.mp4" for number in faces.source[np.searchsorted(faces.clip, np.arange(num_clips))]]
    width = 640
    box = np.stack(
        [faces.centre_x * width - 10, 0 * faces.centre_x, faces.centre_x * width + 10, 30 + 0 * faces.centre_x], 1
    )
    pq.write_table(
        pa.table({"key": keys, "path": paths, "width": pa.array([width] * num_clips, pa.int32())}),
        tmp_path / "clips.parquet",
    )
    columns = {
        "clip": faces.clip, "track": faces.track.astype(np.int16), "number": faces.number.astype(np.int16),
        "mean_x": faces.mean_x, "box": pa.FixedSizeListArray.from_arrays(pa.array(box.ravel(), pa.float32()), 4).cast(pa.list_(pa.float32(), 4)),
        "embedding": pa.array(list(half), pa.list_(pa.float16())),
    }  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "faces.parquet", row_group_size=50)
    read = read_faces(tmp_path)
    assert read.embeddings.shape == half.shape and len(read) == len(faces)
    rows = np.flatnonzero(np.random.default_rng(0).random(len(faces)) < 0.3)
    assert np.array_equal(read.embeddings[rows], half[rows])
    monkeypatch.setattr("likeness.curate.face_table.AT_ONCE", 77)
    assert np.array_equal(np.concatenate([piece for _, piece in read.pieces()]), half)
    assert [start for start, _ in read.pieces()] == list(range(0, len(faces), 77))
    assert np.abs(read.centre_x - faces.centre_x).max() < 1e-6

    pairs = build_pairs(read, PAPER)
    expected = build_pairs(replace(faces, embeddings=half, name=read.name), PAPER)
    assert write_pairs(tmp_path, pairs) == {kind: len(found) for kind, found in expected.items()}
    for kind, found in expected.items():
        written = pq.read_table(tmp_path / "pairs" / f"{kind}.parquet")
        assert written.column_names[:5] == ["kind", "clip", "references", "cosines", "same_source"]
        rows = written.to_pylist()
        assert [(row["clip"], row["references"]) for row in rows] == listed(found)
        assert {(row["reason"], row["value"], row["threshold"]) for row in rows} <= {("", None, None)}
        assert {row["kind"] for row in rows} == {kind} and [
            row["same_source"] for row in rows
        ] == found.same_source.tolist()
        for row, cosines, refs in zip(rows, found.cosines, found.references, strict=True):
            assert row["cosines"] == [None if np.isnan(c) else c for c in cosines[refs >= 0]]
