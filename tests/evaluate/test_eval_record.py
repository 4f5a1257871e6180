"""The record on the disk: appended to, mended after a kill, the last row counts, and made again into tables."""

import csv
import dataclasses
import json

import pytest
from evaluation_parts import Brightness, item, made_up_report, row

from likeness.errors import UserError
from likeness.evaluate.export import write_tables
from likeness.evaluate.record import RESULTS, Record, load_report, read_rows, row_key, write_run
from likeness.evaluate.statistics import table


def test_rows_come_back_as_they_were(tmp_path):
    rows = [
        row("ann", 0.5, curves={"level": [0.5, None]}, details={"matrix": [[1.0]]}, seconds=0.25),
        row("bob", None, status="unreadable", values={}, reason="the file is empty (0 bytes) — “naïve”"),
    ]
    with Record(tmp_path) as record:
        record.append(rows[:1])
        record.append(rows[1:])
    assert read_rows(tmp_path / RESULTS) == rows


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_half_a_line_is_taken_back_and_nothing_else(tmp_path, cut):
    with Record(tmp_path) as record:
        record.append([row("ann", 0.5), row("bob", 0.6)])
    path = tmp_path / RESULTS
    path.write_bytes(path.read_bytes()[:-cut])
    assert [found.id for found in read_rows(path)] == ["ann"]
    with Record(tmp_path) as record:
        assert record.get("brightness ann") is not None
        assert record.get("brightness bob") is None
        record.append([row("bob", 0.7), row("cid", 0.8)])
    assert [(found.id, found.values["level"]) for found in read_rows(path)] == [
        ("ann", 0.5),
        ("bob", 0.7),
        ("cid", 0.8),
    ]


def test_a_long_half_line_is_taken_back_too(tmp_path):
    """Longer than the blocks in which the end of the file is sought."""
    with Record(tmp_path) as record:
        record.append([row("ann", 0.5)])
    whole = (tmp_path / RESULTS).read_bytes()
    (tmp_path / RESULTS).write_bytes(whole + b"{" + b"x" * 200_000)
    with Record(tmp_path):
        pass
    assert (tmp_path / RESULTS).read_bytes() == whole
    (tmp_path / RESULTS).write_bytes(b"no end")
    with Record(tmp_path):
        pass
    assert (tmp_path / RESULTS).read_bytes() == b""


def test_a_line_of_something_else_is_refused_with_its_number(tmp_path):
    with Record(tmp_path) as record:
        record.append([row("ann", 0.5)])
    with (tmp_path / RESULTS).open("a") as file:
        file.write('{"id": "bob"}\n')
    with pytest.raises(UserError, match="Line 2 of"):
        read_rows(tmp_path / RESULTS)


def test_two_evaluations_do_not_write_one_record(tmp_path):
    with Record(tmp_path), pytest.raises(UserError, match="Another evaluation is writing"), Record(tmp_path):
        pass
    with Record(tmp_path):
        pass  # free again


def test_what_is_no_number_is_never_written(tmp_path):
    with Record(tmp_path) as record, pytest.raises(ValueError, match="JSON"):
        record.append([row("ann", float("nan"))])
    assert read_rows(tmp_path / RESULTS) == []


def test_the_last_row_of_a_video_counts(tmp_path):
    rows = [row("ann", 0.1, key="old"), row("bob", 0.2), row("ann", 0.3, key="new")]
    report = made_up_report(tmp_path, rows)
    assert [(found.id, found.values["level"]) for found in report.rows] == [("ann", 0.3), ("bob", 0.2)]
    with Record(tmp_path) as record:
        old = record.get("old")
        assert old is not None
        assert not record.counts(old)
        record.append([old])
        assert record.counts(old)
    assert load_report(tmp_path).rows[0].values == {"level": 0.1}


def test_a_key_follows_from_everything_that_decides_a_row(tmp_path):
    ann, metric = item("ann", tmp_path / "ann.mp4", references=(tmp_path / "a.png",)), Brightness()
    key = row_key(ann, metric, "v", ["r"])
    others = {
        row_key(dataclasses.replace(ann, id="bob"), metric, "v", ["r"]),
        row_key(dataclasses.replace(ann, prompt="a man runs"), metric, "v", ["r"]),
        row_key(dataclasses.replace(ann, people=(1,)), metric, "v", ["r"]),
        row_key(ann, metric, "w", ["r"]),
        row_key(ann, metric, "v", ["s"]),
        row_key(ann, Brightness("contrast"), "v", ["r"]),
        row_key(ann, Brightness(protocol="strict"), "v", ["r"]),
        row_key(ann, Brightness(weights="ab"), "v", ["r"]),
    }
    assert len(others | {key}) == 9
    moved = dataclasses.replace(ann, video=tmp_path / "moved.mp4", group="b", tags={"a": "b"})
    assert row_key(moved, metric, "v", ["r"]) == key  # where a file lies and how rows are grouped decide nothing


def test_a_report_can_be_moved_with_its_videos(tmp_path):
    one = item("ann", tmp_path / "run" / "videos" / "a.mp4", references=(tmp_path / "run" / "a.png",))
    (tmp_path / "run" / "report").mkdir(parents=True)
    with Record(tmp_path / "run" / "report"):
        write_run(tmp_path / "run" / "report", [one], [Brightness()], {"musiq": "--musiq"})
    (tmp_path / "run").rename(tmp_path / "moved")
    report = load_report(tmp_path / "moved" / "report")
    assert report.items["ann"].video.resolve() == tmp_path / "moved" / "videos" / "a.mp4"
    assert report.items["ann"].references[0].resolve() == tmp_path / "moved" / "a.png"
    assert report.absent == {"musiq": "--musiq"}


def test_metrics_of_an_earlier_evaluation_stay(tmp_path):
    ann = item("ann", tmp_path / "a.mp4")
    with Record(tmp_path) as record:
        record.append([row("ann", 0.1), row("ann", 0.2, metric="contrast")])
    write_run(tmp_path, [ann], [Brightness()], {"contrast": "--contrast"})
    write_run(tmp_path, [ann], [Brightness("contrast")], {"brightness": "--bright", "musiq": "--musiq"})
    report = load_report(tmp_path)
    assert [found.metric for found in report.rows] == ["brightness", "contrast"]
    assert report.absent == {"musiq": "--musiq"}


def test_other_folders_are_no_reports(tmp_path):
    with pytest.raises(UserError, match="not the folder of an evaluation"):
        load_report(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 7}')
    with pytest.raises(UserError, match="damaged, or written by another version"):
        load_report(tmp_path)


def test_tables_hold_every_value_and_every_reason(tmp_path):
    rows = [
        row("ann-1", 0.5, values={"level": 0.5, "share": None}, seconds=2.0),
        row("ann-2", None, status="missing", values={}, reason="there is no such file", num_frames=0),
        row("bob-1", 0.7, seconds=1.0),
    ]
    report = made_up_report(tmp_path, rows)
    write_tables(report, table(report))
    with (tmp_path / "results.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(entry["id"], entry["value_name"], entry["value"], entry["status"]) for entry in found] == [
        ("ann-1", "level", "0.5", "ok"),
        ("ann-1", "share", "", "ok"),
        ("ann-2", "", "", "missing"),
        ("bob-1", "level", "0.7", "ok"),
    ]
    assert (found[2]["reason"], found[0]["group"]) == ("there is no such file", "ann")
    means = json.loads((tmp_path / "table.json").read_text())
    assert means["statuses"] == {"brightness": {"missing": 1, "ok": 2}}
    assert means["seconds_a_video"] == {"brightness": 1.5}
    (line,) = means["lines"]
    assert (line["mean"], line["num"], line["num_without"], line["width"]) == (0.6, 2, 1, 64)


def test_parquet_equals_the_csv(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    report = made_up_report(tmp_path, [row("ann", 0.5), row("bob", None, status="failed", values={})])
    write_tables(report, [], parquet=True)
    columns = parquet.read_table(tmp_path / "results.parquet").to_pydict()
    assert columns["value"] == [0.5, None]
    assert columns["id"] == ["ann", "bob"]
    assert columns["width"] == [64, 64]
