"""Curation against a planted truth: each clip's verdict and reason, and each pair, out of drawn clips with every defect.

Nothing is stood in for: files are decoded, faces found and recognised by the models for drawn people, pairs mined.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from planted import DEFECTS, KINDS, Planted, plan, plant
from stub_workers import run_here
from typer.testing import CliRunner

from likeness.cli import app
from likeness.curate.config import CurationConfig, Pairing
from likeness.curate.export import export_pairs
from likeness.curate.local import run_local
from likeness.curate.run import Summary, curate, decide_again
from likeness.curate.sources import read_sources
from likeness.faces import faces_folder


@dataclass(frozen=True)
class Curated:
    planted: dict[str, Planted]  # by path
    summary: Summary
    clips: list[dict]
    faces: list[dict]

    def pairs(self, kind: str) -> list[dict]:
        return pq.read_table(self.summary.folder / "pairs" / f"{kind}.parquet").to_pylist()

    def people(self, clip: int) -> tuple[int, ...]:
        return self.planted[self.clips[clip]["path"]].people


def curated(folder: Path, runner, workers: int, **counts: int) -> Curated:
    planted = plant(folder / "clips", plan(**counts))
    sources = read_sources([folder / "clips" / "clips.jsonl"])
    summary = curate(sources, folder / "set", CurationConfig(), faces=faces_folder(), runner=runner, workers=workers)
    tables = [pq.read_table(folder / "set" / f"{name}.parquet").to_pylist() for name in ("clips", "faces")]
    return Curated({str(clip.path): clip for clip in planted}, summary, *tables)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Some forty clips, without processes."""
    return curated(tmp_path_factory.mktemp("few"), run_here, 1, people=4, clips=3, each=1)


def assert_planted_truth(result: Curated) -> None:
    found = {row["path"]: (row["status"], row["reason"], row["tradeoff"] or "") for row in result.clips}
    truth = {path: (clip.status, clip.reason, clip.tradeoff) for path, clip in result.planted.items()}
    assert not {path: (found[path], "planted:", truth[path]) for path in truth if found[path] != truth[path]}
    assert len(result.clips) == len(result.planted) == sum(result.summary.counts.statuses.values())


def assert_pairs_of_brute_force(result: Curated) -> int:
    """Compare the pairs with those that follow from all cosines in float64; returns how many have another clip's face."""
    config = Pairing()
    rows: dict[int, dict[int, list[int]]] = {}  # of the faces, by clip and person, in the order of their numbers
    for row, face in enumerate(result.faces):
        rows.setdefault(face["clip"], {}).setdefault(face["track"], []).append(row)
    first = {clip: [people[track][0] for track in sorted(people)] for clip, people in rows.items()}
    vectors = np.array([face["embedding"] for face in result.faces], np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    owner = np.array([face["clip"] for face in result.faces])
    single = {faces[0] for faces in first.values() if len(faces) == 1}
    everybody = {row for faces in first.values() for row in faces}

    def within(row: int, pool: set[int], low: float, high: float, *, closed: bool = False) -> set[int]:
        values = cosine[row]
        inside = (values >= low) & ((values <= high) if closed else (values < high)) & (owner != owner[row])
        return set(np.flatnonzero(inside).tolist()) & pool

    expected = {
        clip: [within(faces[0], single, *config.cross)] if len(faces) == 1
        else [within(row, everybody, *config.several, closed=True) for row in faces]
        for clip, faces in first.items()
    }  # fmt: skip
    wanted = {clip for clip, sets in expected.items() if sum(map(bool, sets)) >= min(len(sets), 2)}
    cross = {pair["clip"]: pair for pair in result.pairs("cross")}
    assert set(cross) == wanted
    for clip, pair in cross.items():
        for reference, value, own, allowed in zip(
            pair["references"], pair["cosines"], first[clip], expected[clip], strict=True
        ):
            assert reference in allowed if allowed else (reference == own and value is None)
            assert value is None or value == pytest.approx(cosine[own, reference], abs=1e-12)

    near = {clip: within(faces[0], single, *config.tradeoff) for clip, faces in first.items() if len(faces) == 1}
    least = {clip: min(found, key=lambda row: cosine[first[clip][0], row]) for clip, found in near.items() if found}
    tradeoff = result.pairs("tradeoff")
    assert {pair["clip"]: pair["references"] for pair in tradeoff} == {c: [r] for c, r in least.items()}
    for pair in tradeoff:
        assert pair["reason"] == result.planted[result.clips[pair["clip"]]["path"]].tradeoff

    own = Counter((pair["clip"], tuple(pair["references"])) for pair in result.pairs("pretraining"))
    assert own.keys() >= {(clip, tuple(faces)) for clip, faces in first.items()} and set(own.values()) == {1}
    assert {row for _, references in own for row in references} == {
        r for p in rows.values() for f in p.values() for r in f
    }
    return len(cross) + len(least)


def assert_pairs_show_the_same_people(result: Curated) -> None:
    for kind in ("pretraining", "cross", "tradeoff"):
        for pair in result.pairs(kind):
            people = result.people(pair["clip"])
            assert len(pair["references"]) == len(people)
            for person, row in zip(people, pair["references"], strict=True):
                face = result.faces[row]
                assert result.people(face["clip"])[face["track"]] == person, (kind, pair)


def test_every_defect_is_planted(few: Curated) -> None:
    assert {clip.kind for clip in few.planted.values()} == set(KINDS) and len(DEFECTS) == 17


def test_every_verdict_and_reason_is_the_planted_truth(few: Curated) -> None:
    assert_planted_truth(few)


def test_pairs_are_those_of_comparing_everything(few: Curated) -> None:
    assert assert_pairs_of_brute_force(few) > 5


def test_pairs_show_the_same_people_in_the_same_order(few: Curated) -> None:
    assert_pairs_show_the_same_people(few)


def test_what_is_kept_was_read_as_it_is_shown(few: Curated) -> None:
    rows = {few.planted[row["path"]].kind: row for row in few.clips if few.planted[row["path"]].kind != "plain"}
    assert rows["turned"]["rotation"] == 90 and rows["ten bit"]["rotation"] == 0
    assert rows["variable rate"]["num_delivered"] == rows["variable rate"]["num_expected"] > 2
    assert rows["uncaptioned"]["caption"] is None and few.summary.counts.uncaptioned == 1
    assert rows["hostile caption"]["caption"].startswith("<script>")
    assert [len(row) for row in (rows["two people"]["areas"], rows["three people"]["areas"])] == [2, 3]


def test_rules_about_quality_can_drop_clips(few: Curated, tmp_path: Path) -> None:
    folder = shutil.copytree(few.summary.folder, tmp_path / "set")
    decide_again(folder, ["thresholds.quality_of=all clips"])
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    found = {row["path"]: (row["status"], row["reason"], row["tradeoff"] or "") for row in rows}
    assert found == {
        path: ("dropped", clip.tradeoff, "") if clip.tradeoff else (clip.status, clip.reason, "")
        for path, clip in few.planted.items()
    }


@pytest.mark.slow
def test_training_takes_what_is_exported(
    few: Curated, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    export_pairs(few.summary.folder, tmp_path / "lists")
    settings = (
        "steps=2", "batch_size=2", "micro_batch_size=1", "precision=fp32", "face_weight=1", "previews.every=0", "log_every=1",
        "data.num_frames=5", "data.fps=4", "data.workers=0",
    )  # fmt: skip
    words = ["train", "tiny-concat-id-stage2", "--model", tiny_folder, "--data", tmp_path / "lists" / "cross.json"]
    words += ["--output", tmp_path / "run", *(word for setting in settings for word in ("--set", setting))]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["loss"]) for row in rows)


@pytest.mark.slow
def test_several_hundred_clips_of_a_few_hundred_people(tmp_path: Path) -> None:
    """The same with processes; enough of each kind that chance cannot hide a fault."""
    many = curated(tmp_path, run_local, 2, people=60, clips=4, each=5)
    assert len(many.planted) > 350 and len({person for clip in many.planted.values() for person in clip.people}) > 200
    assert_planted_truth(many)
    assert assert_pairs_of_brute_force(many) > 200
    assert_pairs_show_the_same_people(many)
