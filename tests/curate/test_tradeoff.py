"""Trade-off pairs, which alone are filtered by area and ranked: whom the rules leave out, with the reason, in every place."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from made_up import dataset_of, measures, reference
from stub_workers import contents
from test_report_page import read

from likeness.curate.export import export_pairs
from likeness.curate.report import write_report
from likeness.curate.run import decide_again
from likeness.curate.supervise import Outcome
from likeness.curate.types import ClipSource, Measured

AREAS = (0.1, 0.02, 0.95, 0.2, 0.3, 0.04)  # of six clips; the fifth has no partner
FLOWS = (0.1, 0.9, 0.9, 0.2, 0.3, 0.3)
OUT = {1: "face too small", 2: "face too large"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five clips of one person, whose faces all have a cosine of 0.95 to the first clip's or each other's, and one of another."""
    outcomes = []
    for number, (area, flow) in enumerate(zip(AREAS, FLOWS, strict=True)):
        source = ClipSource(path=f"/clips/{number}.mp4", caption="A man talks.")
        vector = [0.0] * 7
        vector[6 if number == 4 else 0] = 0.975
        vector[1 + number % 5] = 0.222
        face = reference(source.key, 0, vector, tmp_path / "crops_of")
        found = measures(areas=((area,) * 6,), flow=flow, motion=0.0)
        measured = Measured(clip_id=f"{number:032x}", measures=found, faces=(), references=(face,), thumbnail=b"")
        outcomes.append(Outcome(source=source, status="ok", measured=measured))
    return dataset_of(tmp_path / "set", outcomes)


def mined(folder: Path) -> dict[int, tuple[str, float | None, float | None]]:
    rows = pq.read_table(folder / "pairs" / "tradeoff.parquet").to_pylist()
    return {row["clip"]: (row["reason"], row["value"], row["threshold"]) for row in rows}


def test_the_paper_filters_trade_off_pairs_alone(folder: Path) -> None:
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    assert [(row["status"], row["reason"]) for row in rows] == [("ok", "")] * 6
    assert [row["tradeoff"] for row in rows] == [OUT.get(number, "") for number in range(6)]
    assert [(row["value"], row["threshold"]) for row in rows[:3]] == [
        (None, None), (pytest.approx(0.02), 0.04), (pytest.approx(0.95), 0.9),
    ]  # fmt: skip
    pairs = mined(folder)
    assert {clip: reason for clip, (reason, _, _) in pairs.items()} == {0: "", 1: OUT[1], 2: OUT[2], 3: "", 5: ""}
    assert pairs[1][1:] == (pytest.approx(0.02), 0.04) and pairs[0][1:] == (None, None)
    own = pq.read_table(folder / "pairs" / "pretraining.parquet").column("clip").to_pylist()
    assert own == list(range(6)), "the other pairs are left alone"


def test_the_best_are_chosen_among_the_clips_that_have_a_pair(folder: Path) -> None:
    summary = decide_again(folder, ["ranking.top=2"])
    assert summary.counts.statuses == {"ok": 6}
    assert (summary.pairs["tradeoff"], summary.left_out) == (
        2,
        {"face too small": 1, "face too large": 1, "not in top K": 1},
    )
    pairs = mined(folder)
    scores = pq.read_table(folder / "clips.parquet").column("score").to_pylist()
    assert pairs[0] == ("not in top K", scores[0], scores[3]) and pairs[3] == pairs[5] == ("", None, None)


def test_limits_are_moved_without_comparing_faces_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(folder)
    monkeypatch.setattr("likeness.curate.pairs.pair_dataset", None)
    summary = decide_again(folder, ["ranking.top=1", "thresholds.min_area=0.01", "thresholds.max_area=1"])
    assert (summary.pairs["tradeoff"], summary.left_out) == (1, {"not in top K": 4})
    assert {clip for clip, (reason, _, _) in mined(folder).items() if not reason} <= {1, 2}
    decide_again(folder, ["ranking.top=null", "thresholds.min_area=0.04", "thresholds.max_area=0.9"])
    assert contents(folder) == before


def test_what_is_left_out_is_not_exported(folder: Path) -> None:
    lists = {path.stem: path for path in export_pairs(folder).lists}
    named = [Path(entry["video_path"]).stem for entry in json.loads(lists["tradeoff"].read_text())]
    assert named == ["0", "3", "5"]
    assert len(json.loads(lists["pretraining"].read_text())) == 6


def test_the_report_tells_what_became_of_trade_off_pairs(folder: Path) -> None:
    decide_again(folder, ["ranking.top=2"])
    text = " ".join(" ".join(read(write_report(folder).read_text()).texts).split())
    assert "trade-off pairs 5 100.0% face too small share of the frame that faces cover: at least 4 %" in text
    assert "not in top K score that ranks clips: at least" in text and "used 2 40.0%" in text
    assert "2 tradeoff pairs" in text and "kept 6 100.0%" in text
    assert "not in trade-off pairs: not in top K 1 of the clips that are kept" in text


def test_the_rules_can_decide_about_all_clips(folder: Path) -> None:
    summary = decide_again(folder, ["thresholds.quality_of=all clips", "ranking.top=3"])
    assert summary.counts.reasons == {
        ("dropped", "face too small"): 1, ("dropped", "face too large"): 1, ("dropped", "not in top K"): 1,
    }  # fmt: skip
    rows = pq.read_table(folder / "clips.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["dropped"] * 3 + ["ok"] * 3
    assert [row["tradeoff"] for row in rows] == [None] * 3 + [""] * 3 and summary.left_out == {}
    assert set(mined(folder)) == {3, 5} and {reason for reason, _, _ in mined(folder).values()} == {""}
    text = " ".join(" ".join(read(write_report(folder).read_text()).texts).split())
    assert "not in top K" in text and "not in trade-off pairs" not in text
