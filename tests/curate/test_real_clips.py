"""Real clips with a real detector: talking heads are kept, a scene with a changing number of people is not."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from stub_workers import run_here
from test_report_page import read

from likeness.curate.config import CurationConfig
from likeness.curate.report import write_report
from likeness.curate.run import Summary, curate
from likeness.curate.sources import read_sources

TALKING_HEADS = {"d3", "d10", "d11", "d12", "d14", "d18", "d19", "d20"}


@pytest.fixture(scope="module")
def real(real_material: Path, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """The real clips, with the detector alone: no recogniser of real faces may be had freely."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "pack").mkdir()
    (folder / "pack" / "scrfd.onnx").symlink_to(real_material / "models" / "scrfd_2.5g_kps.onnx")
    sources = read_sources([real_material / "clips"])
    return curate(sources, folder / "set", CurationConfig(), faces=folder / "pack", runner=run_here)


@pytest.mark.slow
def test_talking_heads_are_kept_and_the_other_says_why(real: Summary) -> None:
    rows = {Path(row["path"]).stem: row for row in pq.read_table(real.folder / "clips.parquet").to_pylist()}
    assert {name for name, row in rows.items() if row["status"] == "ok"} == TALKING_HEADS
    assert all(set(rows[name]["num_people"]) == {1} for name in TALKING_HEADS)
    assert rows["people_count_varies"]["reason"] == "people count varies" and rows["people_count_varies"]["value"] > 0.3


@pytest.mark.slow
def test_the_report_says_what_was_not_checked(real: Summary) -> None:
    text = " ".join(read(write_report(real.folder).read_text(encoding="utf-8")).texts)
    assert "have no recogniser" in text and "Clips without a caption: 9." in text
    assert dict(real.pairs) == {"pretraining": 5 * len(TALKING_HEADS), "cross": 0, "tradeoff": 0}
