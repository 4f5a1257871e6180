"""The table of all metrics: jobs, conditions, going on, and the tables."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from likeness.errors import UserError
from likeness.evaluate.motion import Motion
from likeness.evaluate.record import Report, Row
from likeness.evaluate.run import evaluate
from likeness.evaluate.types import Item
from likeness.recipes.evaluation import (
    ANOTHER,
    CONDITIONS,
    FIRST,
    NONE,
    REFERENCE,
    check_settings,
    generate,
    items_of,
    jobs_of,
    models_of,
)
from likeness.recipes.evaluation_table import pose_copied, seconds_a_video, write_tables
from likeness.world import VALIDATION_PEOPLE
from likeness.world.folder import write_photograph


class StandIn:
    """A pipeline whose video shows nothing but the brightness of what it was shown."""

    config = SimpleNamespace(default_height=32, default_width=32, default_fps=8)

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], object, list[int]]] = []

    def __call__(self, prompts, references, *, num_inference_steps, generator):
        self.calls.append((prompts, references, [one.initial_seed() for one in generator]))
        levels = [references[i][0].mean() / 255 if references else 0.5 for i in range(len(prompts))]
        moving = np.linspace(0, 0.2, 4)[:, None, None, None]
        return SimpleNamespace(frames=[np.full((4, 32, 32, 3), level * 0.8) + moving for level in levels])


FACES = SimpleNamespace(reference=lambda picture, height, width: SimpleNamespace(canvas=picture[:32, :32]))


def test_the_same_prompts_and_noise_for_every_condition() -> None:
    jobs = jobs_of(FIRST, 4, 3)
    assert len({job.id for job in jobs}) == len({job.seed for job in jobs}) == 12
    assert jobs == jobs_of(FIRST, 4, 3) and jobs_of(FIRST, 2, 3) == jobs[:6], "more people leave the others as they are"
    assert {job.person for job in jobs} <= set(VALIDATION_PEOPLE)


def test_conditions_and_going_on(tmp_path: Path) -> None:
    jobs = jobs_of(FIRST, 2, 1)
    for person in range(FIRST, FIRST + 3):  # plain pictures: drawing takes longer than the test may
        write_photograph(
            tmp_path / "photographs" / f"{person}.png", np.full((64, 64, 3), 40 * (person - FIRST + 1), np.uint8)
        )
    shown = {}
    for condition in CONDITIONS:
        pipeline = StandIn()
        generate(pipeline, FACES, jobs, condition, tmp_path, tmp_path / "videos" / condition, None)  # type: ignore[arg-type]
        prompts, references, seeds = pipeline.calls[0]
        assert prompts == [job.prompt for job in jobs] and seeds == [job.seed for job in jobs]
        shown[condition] = [int(canvases[0].mean()) for canvases in references] if references else []
    assert shown == {REFERENCE: [40, 80], ANOTHER: [80, 120], NONE: []}

    videos = tmp_path / "videos" / REFERENCE
    first = (videos / f"{jobs[0].id}.mp4").read_bytes()
    (videos / f"{jobs[1].id}.mp4").unlink()
    again = StandIn()
    generate(again, FACES, jobs, REFERENCE, tmp_path, videos, None)  # type: ignore[arg-type]
    assert [prompts for prompts, _, _ in again.calls] == [[jobs[1].prompt]], "only what is missing is made"
    assert (videos / f"{jobs[0].id}.mp4").read_bytes() == first

    items = items_of(jobs, videos, tmp_path / "photographs")
    assert [item.group for item in items] == [str(FIRST), str(FIRST + 1)] and all(item.video.exists() for item in items)


def test_models_and_settings(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert models_of([f"st-drc={tmp_path / 'mine'}"]) == {"st-drc": tmp_path / "mine"}
    with pytest.raises(UserError, match="comes twice"):
        models_of([f"a={tmp_path / 'mine'}", f"a={tmp_path / 'mine'}"])
    with pytest.raises(UserError, match="neither a folder nor a known model"):
        models_of(["a=nowhere"])
    check_settings(tmp_path, {"steps": None, "model a": {"x": "1"}})
    check_settings(tmp_path, {"steps": None, "model b": {"x": "2"}})  # another model joins
    assert set(json.loads((tmp_path / "settings.json").read_text())) == {"steps", "model a", "model b"}
    with pytest.raises(UserError, match="another model a"):
        check_settings(tmp_path, {"model a": {"x": "3"}})


def row(metric: str, id: str, **fields: object) -> Row:
    return Row(key=id, id=id, metric=metric, protocol="p", weights="", status="ok", **fields)  # type: ignore[arg-type]


def report_of(rows: list[Row]) -> Report:
    items = {
        one.id: Item(id=one.id, video=Path(), prompt="", references=(), people=(), group=one.id[0]) for one in rows
    }
    return Report(folder=Path("r"), items=items, rows=rows, directions={}, absent={})


def poses(pairs: list[tuple[str, float, float]]) -> Report:
    rows = [
        row("copying", id, details={"reference_yaw_deg": [shown], "yaw_deg": [seen]}, seconds=0.5)
        for id, shown, seen in pairs
    ]
    return report_of(rows)


def test_a_copied_pose_correlates() -> None:
    shown = np.random.default_rng(0).normal(0, 15, 30)
    free = np.random.default_rng(1).normal(0, 15, 30)
    ids = [f"{chr(65 + index)}{index}" for index in range(30)]
    copies = pose_copied(poses([(id, a, a + 1) for id, a in zip(ids, shown, strict=True)]))
    assert copies is not None and copies.r == pytest.approx(1) and copies.low > 0.99
    others = pose_copied(poses([(id, a, b) for id, a, b in zip(ids, shown, free, strict=True)]))
    assert others is not None and others.low < 0 < others.high
    assert pose_copied(poses([("A", 1, 1), ("B", 2, 2)])) is None, "two people show nothing"
    missing = row("copying", "C", details={"reference_yaw_deg": [None], "yaw_deg": [1.0]})
    assert pose_copied(report_of([missing])) is None


def test_tables(tmp_path: Path) -> None:
    jobs = jobs_of(FIRST, 3, 1)
    reports = {}
    for condition in (REFERENCE, NONE):
        videos = tmp_path / "videos" / condition
        for job in jobs:
            write_photograph(tmp_path / "photographs" / f"{job.person}.png", np.full((64, 64, 3), 90, np.uint8))
        generate(StandIn(), FACES, jobs, condition, tmp_path, videos, None)  # type: ignore[arg-type]
        items = items_of(jobs, videos, tmp_path / "photographs")
        reports["tiny", condition] = evaluate(
            items, [Motion()], tmp_path / "reports" / condition, absent={"musiq": "--musiq"}
        )
    text = write_tables(reports, tmp_path)
    assert text + "\n" == (tmp_path / "table.md").read_text()
    assert "3 videos of 3 people" in text and "musiq (--musiq)" in text and "tiny: the reference against none" in text
    for line in text.splitlines():
        if line.startswith("| motion | luminance"):
            assert line.count("[") == 2, line  # an interval for each condition
    record = json.loads((tmp_path / "table.json").read_text())
    assert set(record) == {"tiny reference", "tiny none"} and record["tiny none"]["seconds a video"]["motion"] > 0
    assert set(seconds_a_video(reports["tiny", NONE])) == {"motion"}


@pytest.mark.slow
def test_the_whole_with_the_tiny_model(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from likeness.recipes import evaluation

    command = ["x", "--models", f"tiny={tiny_folder}", "--people", "3", "--prompts", "1", "--steps", "2"]
    monkeypatch.setattr("sys.argv", [*command, "--output", str(tmp_path)])
    evaluation.main()
    text = (tmp_path / "table.md").read_text()
    assert "tiny another" in text and "drawn clips" in text and "facesim_arc_strict" in text
    results = [path.read_bytes() for path in sorted(tmp_path.glob("reports/**/results.jsonl"))]
    assert len(results) == 4
    evaluation.main()
    assert [path.read_bytes() for path in sorted(tmp_path.glob("reports/**/results.jsonl"))] == results, "nothing twice"
