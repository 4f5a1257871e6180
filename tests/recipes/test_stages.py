"""The runs of a model are measured once each, and what was there before them too."""

import sys

import pytest

from likeness.recipes import stages


def test_a_run_is_measured_once(tmp_path, monkeypatch) -> None:
    measured: list[tuple[str, bool]] = []

    class Counted:
        def __init__(self, people: int, second: object) -> None:
            assert people == 3 and second is None

        def of(self, model: str, method: object, *, with_reference: bool) -> dict[str, list[float]]:
            assert method is None  # its own
            measured.append((model, with_reference))
            return {"FaceSim": [0.5, 0.4, 0.6]}

    monkeypatch.setattr(stages, "Measurement", Counted)
    file = tmp_path / "runs" / "base.figures.json"
    for _ in range(2):
        assert stages.figures_of("base/model", file, 3, None, False) == {"FaceSim": [0.5, 0.4, 0.6]}
    assert measured == [("base/model", False)]


def test_the_table_has_the_finished_runs_in_order(tmp_path, monkeypatch, capsys) -> None:
    runs = tmp_path / "runs"
    for run in ("start", "faces", "stage1"):
        (runs / run / "model").mkdir(parents=True)
        (runs / f"{run}.figures.json").write_text('{"FaceSim": [0.5, 0.4, 0.6]}')
    (runs / "identity").mkdir()  # still training
    page = tmp_path / "page.md"
    page.write_text("prose\n")
    options = ["--runs", str(runs), "--start", "tiny", "--processes", "1", "--page", str(page)]
    monkeypatch.setattr(sys, "argv", ["stages", "concat-id", *options])
    stages.main()
    labels = [line.split(" | ")[0] for line in page.read_text().splitlines() if " | 0.500" in line]
    assert labels == ["| before", "| stage I: pre-training pairs", "| a stage for faces: photographs"]
    assert page.read_text().startswith("prose\n")


def test_runs_that_are_not_there_are_said(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["stages", "concat-id", "--runs", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        stages.main()
    assert stop.value.code == 2 and "likeness.recipes.family" in capsys.readouterr().err
