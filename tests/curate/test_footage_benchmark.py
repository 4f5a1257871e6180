"""The benchmark of runners on footage runs at small size, and tells each runner's cost and the share of the others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from stub_workers import run_here

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_runners_take_turns_on_clips_that_are_all_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import footage

    for name, value in {"HEIGHT": 320, "WIDTH": 512, "FILES": 2, "SECONDS": 2}.items():
        monkeypatch.setattr(footage, name, value)
    order: list[str] = []

    def runner(name: str):
        def run(sources, make, **options):
            order.append(name)
            assert len({source.path for source in sources}) == 2
            assert len({source.key for source in sources}) == len(sources) == 3
            return run_here(sources, make, **options)

        return run

    footage.footage({name: runner(name) for name in ("here", "there")}, num=2, workers=1, rounds=2)
    assert order == ["here", "there", "there", "here"]
    said = capsys.readouterr().out
    assert re.findall(r"^(\w+) +[\d.]+ ms wall a clip, +[\d.]+ ms CPU; [\d.]+ s to the first", said, re.MULTILINE) == [
        "here",
        "there",
    ]
    assert re.findall(r"^there over here: [+-][\d.]+ % (\w+)", said, re.MULTILINE) == ["wall", "CPU"]
