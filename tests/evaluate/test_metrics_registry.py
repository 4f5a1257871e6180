"""The registry: every metric has the name it is found by, and says what it lacks."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from likeness.errors import UserError
from likeness.evaluate.metrics import METRICS, build
from likeness.evaluate.types import BackendAbsent, Backends
from likeness.faces import faces_folder


def test_without_weights_each_metric_works_or_names_the_option_it_waits_for():
    metrics, absent = build(Backends())
    assert {metric.name for metric in metrics} | set(absent) == set(METRICS)
    assert not {metric.name for metric in metrics} & set(absent)
    fields = {"--" + name.replace("_", "-") for name in Backends.__dataclass_fields__}
    assert set(absent.values()) <= fields - {"--device"}
    assert absent["facesim_arc"] == "--faces"
    assert absent["imaging_quality"] == "--musiq"


def test_metrics_are_called_what_they_are_found_by(monkeypatch):
    monkeypatch.delenv("LIKENESS_FACES", raising=False)
    metrics, absent = build(Backends(faces=faces_folder()))
    assert not set(absent) & {"facesim_arc", "facesim_arc_strict", "people", "drift"}
    for metric in metrics:
        assert metric.name in METRICS
        assert metric.protocol
        assert set(metric.directions.values()) <= {"higher", "lower", ""}
        indices = metric.indices(17, 8.0)
        assert indices.min() >= 0
        assert indices.max() <= 16


def test_a_metric_asked_for_by_name_must_have_its_weights():
    with pytest.raises(UserError, match="imaging_quality: backend absent: give --musiq PATH"):
        build(Backends(), ["imaging_quality"])
    with pytest.raises(UserError, match="no metric beauty"):
        build(Backends(), ["motion", "beauty"])
    assert [metric.name for metric in build(Backends(), ["motion", "motion"])[0]] == ["motion"]


def test_weights_that_are_not_there_are_not_absent(tmp_path):
    with pytest.raises(UserError, match=r"which --musiq names") as caught:
        build(Backends(musiq=tmp_path / "musiq.pth"))
    assert not isinstance(caught.value, BackendAbsent)


@pytest.mark.parametrize("name", ["curricular", "musiq", "raft", "faces"])
def test_weights_of_something_else_are_refused_by_name(tmp_path, name):
    """A file of tensors, but of no network that is asked for; a folder without face models."""
    folder = tmp_path / "weights"
    folder.mkdir()
    path = folder if name == "faces" else folder / "other.safetensors"
    save_file({"conv.weight": np.zeros((2, 3), np.float32)}, folder / "other.safetensors")
    with pytest.raises(UserError) as caught:
        build(Backends(**{"faces": faces_folder(), name: path}))
    assert path.name in str(caught.value)
    assert not isinstance(caught.value, BackendAbsent)


def test_every_metric_is_in_the_documentation():
    told = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text("utf-8")
    assert not [name for name in METRICS if f"`{name}`" not in told]
