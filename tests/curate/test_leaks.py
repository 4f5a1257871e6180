"""Leaks: exactly the identities and clips above the threshold, whatever is looked at together; and a sheet to look at."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_up import dataset_of, measures
from stub_workers import contents
from test_report_page import read
from typer.testing import CliRunner

from likeness.cli import app
from likeness.curate import leaks as module
from likeness.curate.benchmark import Benchmark, identity_of, read_benchmark
from likeness.curate.face_table import FaceTable, read_faces
from likeness.curate.leak_check import PER_SHEET, check_leaks
from likeness.curate.leak_table import is_outdated, leaked_clips
from likeness.curate.leaks import Leaks, find_leaks
from likeness.curate.record import Dataset
from likeness.curate.report import write_report
from likeness.curate.run import decide_again
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measured, ReferenceFace
from likeness.errors import CheckpointError, UserError
from likeness.faces import faces_folder
from likeness.faces.align import arcface_template, estimate_similarity, warp
from likeness.faces.pack import FacePack
from likeness.media import read_picture, write_picture
from likeness.world.folder import draw_photograph


def faces_of(embeddings: np.ndarray, per_clip: int = 3) -> FaceTable:
    """Faces of clips of one person, in no particular order of clips."""
    count = len(embeddings)
    clip = np.random.default_rng(5).permutation(count) // per_clip
    return FaceTable(
        clip=clip, source=clip, track=np.zeros(count, np.int64), number=np.arange(count), centre_x=np.full(count, 0.5),
        mean_x=np.full(count, 0.5), embeddings=embeddings,
    )  # fmt: skip


def benchmark_of(embeddings: np.ndarray, per_identity: int = 2) -> Benchmark:
    """Pictures ``0_0``, ``0_1`` ... of identities ``0`` ..."""
    names = [divmod(number, per_identity) for number in range(len(embeddings))]
    return Benchmark(
        pictures=tuple(f"{identity}_{number}" for identity, number in names),
        identities=tuple(str(identity) for identity, _ in names),
        embeddings=embeddings.astype(np.float32),
    )


def crowd(count: int, width: int = 48, seed: int = 0) -> np.ndarray:
    """``float16``: people of whom some are alike, some twice the same."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((30, width))[rng.integers(0, 30, count)]
    vectors += rng.uniform(0.2, 2.5, (count, 1)) * rng.standard_normal((count, width))
    vectors[1::7] = vectors[0::7][: len(vectors[1::7])]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def reference(faces: FaceTable, people: Benchmark, threshold: float) -> Leaks:
    """The same by comparing all with all in float64."""
    training, pictures = (
        np.asarray(faces.embeddings, np.float64),
        people.embeddings.astype(np.float16).astype(np.float64),
    )
    cosine = pictures @ training.T  # exact sums, as the numbers are float16
    cosine /= np.sqrt((pictures**2).sum(1))[:, None] * np.sqrt((training**2).sum(1))
    leaked = {people.identities[number] for number in np.flatnonzero((cosine > threshold).any(1))}
    best = cosine.max(0)
    rows = []
    for clip in np.unique(faces.clip[best > threshold]):
        own = np.flatnonzero(faces.clip == clip)
        face = own[np.argmax(best[own])]
        rows.append((clip, face, np.argmax(cosine[:, face]), best[face]))
    clip, face, picture, value = (np.array(column) for column in zip(*rows, strict=True))
    return Leaks(
        nearest=cosine.argmax(1), cosine=cosine.max(1), leaked=np.array([name in leaked for name in people.identities]),
        threshold=threshold, clip=clip, face=face, picture=picture, clip_cosine=value,
    )  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 37, 10_000])
@pytest.mark.parametrize("threshold", [0.45, 0.8])
def test_leaks_are_those_of_a_comparison_of_all(
    monkeypatch: pytest.MonkeyPatch, at_once: int, threshold: float
) -> None:
    embeddings = crowd(900 if at_once > 1 else 150)
    mixture = np.linspace(0, 1.5, 60, dtype=np.float16)[:, None]  # from strangers to people of the training data
    faces, people = faces_of(embeddings), benchmark_of(crowd(60, seed=1) + mixture * embeddings[:60])
    monkeypatch.setattr("likeness.curate.face_table.AT_ONCE", at_once)
    monkeypatch.setattr(module, "_PRODUCTS", 60 * 20)
    expected, found = reference(faces, people, threshold), find_leaks(faces, people, threshold)
    assert 0 < expected.leaked.sum() < 60 and len(expected.clip) > 3
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(found, name), value), name


def test_the_threshold_itself_is_no_leak() -> None:
    training, picture = np.array([[5, 0]], np.float16), np.array([[3, 4]], np.float16)  # cos = 0.6
    faces, people = faces_of(training), benchmark_of(picture)
    assert not find_leaks(faces, people, 0.6).leaked.any() and not len(find_leaks(faces, people, 0.6).clip)
    assert find_leaks(faces, people, np.nextafter(0.6, 0)).leaked.all()
    assert find_leaks(faces, people, 0.6).cosine[0] == 0.6, "the most similar is told all the same"


def test_all_pictures_of_an_identity_leak_together_also_those_without_a_face() -> None:
    pictures = np.eye(6)[[0, 3, 1, 1, 4, 5]]
    pictures[3] = 0
    found = find_leaks(faces_of(np.eye(6)[[0, 1, 2]].astype(np.float16)), benchmark_of(pictures))
    assert found.leaked.tolist() == [True, True, True, True, False, False]
    assert found.nearest[3] == -1 and np.isnan(found.cosine[3])
    assert (found.nearest[[0, 2]] == [0, 1]).all()


def test_people_recognised_by_eye_leak_too() -> None:
    faces, people = faces_of(np.eye(6)[:3].astype(np.float16)), benchmark_of(np.eye(6)[[3, 4, 5, 4]])
    assert not find_leaks(faces, people).leaked.any()
    assert find_leaks(faces, people, also=["1"]).leaked.tolist() == [False, False, True, True]
    with pytest.raises(UserError, match="nobody called '7'"):
        find_leaks(faces, people, also=["7"])


def test_embeddings_of_another_recogniser_are_refused() -> None:
    with pytest.raises(UserError, match=r"have 8 numbers .* faces 6"):
        find_leaks(faces_of(np.eye(6, dtype=np.float16)), benchmark_of(np.eye(8)))


def test_nothing_to_compare() -> None:
    nobody = replace(faces_of(np.zeros((0, 6), np.float16)))
    found = find_leaks(nobody, benchmark_of(np.eye(6)))
    assert (found.nearest == -1).all() and not found.leaked.any() and not len(found.clip)
    assert not find_leaks(faces_of(np.eye(6, dtype=np.float16)), benchmark_of(np.zeros((2, 1)))).leaked.any()


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("12_asian_woman_Ada_Lovelace_2.png", "Ada_Lovelace"),
        ("crop_man/3_white_man_Alan_1.png", "Alan"),
        ("3_white_man_1.png", "3_white_man_1"),
        ("id012/image.png", "id012"),
        ("set/id012/image2.png", "set/id012"),
        ("ada_1.jpg", "ada"),
        ("ada lovelace-12.jpg", "ada lovelace"),
        ("grace.png", "grace"),
        ("17.png", "17"),
    ],
)
def test_whom_a_picture_shows(path: str, identity: str) -> None:
    assert identity_of(Path(path)) == identity


# ------------------------------------------------------------------------------------------- a dataset of drawn people

PEOPLE, SIZE = (0, 2), 256


@pytest.fixture(scope="module")
def pack() -> FacePack:
    return FacePack.load(faces_folder())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, pack: FacePack) -> Path:
    """``set``, a dataset with two clips of each of two drawn people, and ``benchmark``: two pictures of person 2, one of person 3,
    and a picture of nobody."""
    folder = tmp_path_factory.mktemp("drawn") / "set"
    outcomes = []
    for row, (person, number) in enumerate((person, number) for person in PEOPLE for number in (0, 1)):
        picture = draw_photograph(person, number, size=SIZE)
        face = pack.detect(picture)[0]
        candidate = ReferenceFace(
            track=0, number=0, sample=0, time_s=0.0, box=(300.0, 0.0, 340.0, 40.0), keypoints=face.keypoints, score=0.9,
            area=0.1, mean_x=0.5, embedding=np.asarray(pack.embed(picture, face), np.float32), crop=f"crops/{row}.png",
        )  # fmt: skip
        write_picture(
            folder.parent / candidate.crop,
            warp(picture, estimate_similarity(face.keypoints, arcface_template(448)), 448),
        )
        measured = Measured(
            clip_id=f"{row:032x}", measures=measures(), faces=(), references=(candidate,), thumbnail=b""
        )
        outcomes.append(Outcome(source=ClipSource(path=f"/clips/{row}.mp4"), status="ok", measured=measured))
    dataset_of(folder, outcomes, faces_folder())
    (folder.parent / "crops").rename(folder / "crops")
    for person, number in ((2, 4), (2, 5), (3, 1)):
        path = folder.parent / "benchmark" / f"{person * 10 + number}_x_man_P{person}_{number}.png"
        write_picture(path, draw_photograph(person, number, size=SIZE))
    write_picture(folder.parent / "benchmark" / "empty" / "wall.png", np.full((300, 400, 3), 90, np.uint8))
    return folder.parent


@pytest.fixture
def dataset(drawn: Path, tmp_path: Path) -> Path:
    """The dataset, to be changed."""
    return shutil.copytree(drawn / "set", tmp_path / "set")


@pytest.fixture
def benchmark(drawn: Path, tmp_path: Path) -> Path:
    """The benchmark, to be changed."""
    return shutil.copytree(drawn / "benchmark", tmp_path / "benchmark")


def test_a_check_against_a_benchmark(dataset: Path, benchmark: Path) -> None:
    seen: list[tuple[int, int]] = []
    summary = check_leaks(dataset, benchmark, on_progress=lambda *call: seen.append(call))
    assert seen[-1] == (4, 4)
    assert (summary.pictures, summary.identities, summary.leaked) == (4, 3, ("P2",))
    assert summary.without_face == ("empty/wall.png",) and summary.clips == 2 and summary.decided is None
    rows = pq.read_table(summary.table).to_pylist()
    assert [(row["side"], row["identity"], row["dropped"]) for row in rows] == [
        ("benchmark", "P2", True), ("benchmark", "P2", True), ("benchmark", "P3", False), ("benchmark", "empty", False),
        ("training", "P2", False), ("training", "P2", False),
    ]  # fmt: skip
    assert all(row["clip"] in (2, 3) and row["cosine"] > 0.45 for row in rows if row["identity"] == "P2")
    assert rows[2]["cosine"] <= 0.45
    assert [row["threshold"] for row in rows] == [0.45, 0.45, None, None, 0.45, 0.45]
    assert [row["key"] for row in rows[-2:]] == [ClipSource(path=f"/clips/{row}.mp4").key for row in (2, 3)]
    assert rows[3]["clip"] is rows[3]["face"] is rows[3]["key"] is rows[3]["cosine"] is None
    assert not leaked_clips(dataset) and verdicts(dataset) == [("ok", "")] * 4
    sheet = read_picture(summary.sheets[0])
    assert summary.sheets == (dataset / "leaks" / "001.png",) and sheet.shape[0] > 700 and sheet.shape[1] > 2000


def verdicts(dataset: Path) -> list[tuple[str, str]]:
    rows = pq.read_table(dataset / "clips.parquet").to_pylist()
    return [(row["status"], row["reason"]) for row in rows]


def paired(dataset: Path) -> set[int]:
    return set(pq.read_table(dataset / "pairs" / "pretraining.parquet").column("clip").to_pylist())


LEAKED = [("ok", ""), ("ok", ""), ("dropped", "leak"), ("dropped", "leak")]


def test_clips_that_leak_are_dropped_with_their_reason(dataset: Path, benchmark: Path) -> None:
    before = contents(dataset)
    summary = check_leaks(dataset, benchmark, "training")
    assert verdicts(dataset) == LEAKED and paired(dataset) == {0, 1}
    assert summary.decided and summary.decided.counts.statuses == {"ok": 2, "dropped": 2}
    assert summary.decided.counts.reasons == {("dropped", "leak"): 2} and summary.decided.pairs["pretraining"] == 2
    rows = pq.read_table(dataset / "clips.parquet").to_pylist()
    cosines = {key: cosine for key, (cosine, _) in leaked_clips(dataset).items()}
    assert {row["key"]: row["value"] for row in rows[2:]} == cosines and rows[2]["threshold"] == 0.45 < rows[2]["value"]
    assert [row["dropped"] for row in pq.read_table(summary.table).to_pylist()] == [False] * 4 + [True] * 2
    again = check_leaks(dataset, benchmark, "training")
    assert again.clips == 2 and again.decided is None, "who is taken out is still compared"
    back = check_leaks(dataset, benchmark)
    assert back.decided and back.decided.pairs["pretraining"] == 4
    assert {name: data for name, data in contents(dataset).items() if "leaks" not in name} == before


def test_clips_that_leak_stay_out_whatever_is_decided(dataset: Path, benchmark: Path) -> None:
    check_leaks(dataset, benchmark, "training")
    decide_again(dataset, ["pairing.seed=5", "thresholds.max_breaks=0.1"])
    assert verdicts(dataset) == LEAKED and paired(dataset) == {0, 1}
    decide_again(dataset, ["thresholds.min_duration_s=4"])
    assert verdicts(dataset) == [("dropped", "too short")] * 4, "the first rule gives the reason"
    decide_again(dataset, ["thresholds.min_duration_s=1"])
    assert verdicts(dataset) == LEAKED


def test_clips_that_were_never_compared_are_told_of(dataset: Path, benchmark: Path) -> None:
    decide_again(dataset, ["thresholds.quality_of=all clips", "ranking.top=3"])
    assert not is_outdated(Dataset.open(dataset)), "where there is no benchmark"
    check_leaks(dataset, benchmark)
    assert not is_outdated(Dataset.open(dataset))
    decide_again(dataset, ["ranking.top=4"])
    assert is_outdated(Dataset.open(dataset))
    assert "Other clips are kept than those" in write_report(dataset).read_text()
    check_leaks(dataset, benchmark)
    assert "Other clips are kept than those" not in write_report(dataset).read_text()


def test_whom_somebody_recognised_is_taken_out_with_the_face_beside_it(dataset: Path, benchmark: Path) -> None:
    for number in (4, 5):
        (benchmark / f"2{number}_x_man_P2_{number}.png").unlink()
    assert check_leaks(dataset, benchmark, "training").clips == 0
    summary = check_leaks(dataset, benchmark, "training", also=["P3"])
    (row,) = [row for row in pq.read_table(summary.table).to_pylist() if row["identity"] == "P3" and row["dropped"]]
    assert row["side"] == "training" and row["threshold"] is None and row["cosine"] <= 0.45
    assert verdicts(dataset)[row["clip"]] == ("dropped", "leak") and verdicts(dataset).count(("ok", "")) == 3


def test_the_command_says_what_became_of_the_clips(dataset: Path, benchmark: Path) -> None:
    words = ["curate", "leaks", str(dataset), str(benchmark), "--drop", "training"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [str(dataset / "leaks.parquet")]
    assert "1 of 3 people in 4 pictures are among the training faces and cost 2 clips: P2" in result.stderr
    assert "curated: 4 clips: kept 2, dropped 2" in result.stderr and "pretraining 2" in result.stderr
    assert "section A.1" in (dataset / "report.html").read_text()


def test_the_report_shows_what_leaked(dataset: Path, benchmark: Path) -> None:
    assert "cosine to a face of a benchmark" not in write_report(dataset).read_text()
    check_leaks(dataset, benchmark, "training")
    text = " ".join(" ".join(read(write_report(dataset).read_text()).texts).split())
    assert "cosine to a face of a benchmark: at most 0.45 (pairing.leak, section A.1)" in text
    assert "leak" in text and "kept 2 50.0%" in text


def test_sheets_of_an_earlier_check_are_removed(
    dataset: Path, benchmark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("likeness.curate.leak_check.PER_SHEET", 2)
    assert len(check_leaks(dataset, benchmark).sheets) == 2
    (dataset / "crops" / "2.png").unlink()  # a picture that is gone leaves its place blank
    monkeypatch.setattr("likeness.curate.leak_check.PER_SHEET", PER_SHEET)
    assert len(check_leaks(dataset, benchmark).sheets) == 1
    assert [path.name for path in (dataset / "leaks").iterdir()] == ["001.png"]


def test_mistakes_are_told(dataset: Path, benchmark: Path, pack: FacePack, tmp_path: Path) -> None:
    before = contents(dataset)
    with pytest.raises(UserError, match="There is no folder"):
        check_leaks(dataset, tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="no pictures"):
        check_leaks(dataset, tmp_path / "none")
    with pytest.raises(UserError, match="direction 'sideways'"):
        check_leaks(dataset, benchmark, "sideways")  # pyright: ignore[reportArgumentType]
    (benchmark / "torn.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"torn\.png"):
        check_leaks(dataset, benchmark)
    with pytest.raises(CheckpointError, match="no recogniser"):
        read_benchmark(benchmark, replace(pack, recognizer=None))
    run = dataset / "run.json"
    run.write_text(run.read_text().replace('"faces/', '"faces/another-'))
    with pytest.raises(UserError, match=r"have changed since .* measured \(faces/another-"):
        check_leaks(dataset, benchmark)
    run.write_text(run.read_text().replace('"faces/another-', '"faces/'))
    assert contents(dataset) == before
    assert len(read_faces(dataset)) == 4
