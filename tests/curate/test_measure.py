"""One clip through the measurer, with the models for drawn people: what is measured is what was drawn."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import FIRST_PERSON, RATE, frames_of

from likeness.curate.config import CurationConfig
from likeness.curate.decode import read_samples, read_timeline
from likeness.curate.measure import Measurer, clip_id
from likeness.curate.rules import decide, unchecked
from likeness.curate.types import ClipSource, Measured
from likeness.faces import faces_folder, load_faces
from likeness.media import read_picture, write_video
from likeness.types import Video
from likeness.world import clip_of

CONFIG = CurationConfig()
PEOPLE = (FIRST_PERSON + 900, FIRST_PERSON + 901)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> ClipSource:
    """Two people for two and a half seconds: five samples."""
    path = tmp_path_factory.mktemp("clips") / "two.mp4"
    write_video(path, Video(frames_of(clip_of(PEOPLE, 0), 128), RATE))
    return ClipSource(path=str(path))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dataset")


@pytest.fixture(scope="module")
def measured(clip, dataset) -> Measured:
    return Measurer(CONFIG, faces_folder(), dataset)(clip)


def test_two_people_are_two_people_all_along(measured: Measured) -> None:
    measures = measured.measures
    assert (measures.width, measures.height, measures.fps) == (128, 128, RATE)
    assert measures.duration_s == pytest.approx(2.5) and measures.rotation == 0
    assert (measures.num_expected, measures.num_delivered, measures.num_corrupt) == (5, 5, 0)
    assert measures.num_people == (2,) * 5
    assert [len(track) for track in measures.cosines] == [4, 4] and np.min(measures.cosines) > 0.5
    assert [len(track) for track in measures.areas] == [5, 5]
    assert measures.flow > 0 and 0 < measures.motion < 1 and measures.aesthetics is None
    assert decide(measures, CONFIG).keep and unchecked(measures, CONFIG) == ("no person in caption",)


def test_people_are_numbered_from_the_left(measured: Measured) -> None:
    middle = {track: [face.centre_x for face in measured.faces if face.track == track] for track in (0, 1)}
    assert [len(places) for places in middle.values()] == [5, 5]
    assert max(middle[0]) < 0.5 < min(middle[1])
    assert {round(reference.mean_x, 6) for reference in measured.references} == {
        round(float(np.mean(places)), 6) for places in middle.values()
    }


def test_references_are_cut_out_as_for_a_photograph(measured: Measured, clip: ClipSource, dataset: Path) -> None:
    """The picture equals what `likeness generate` makes of the same frame and face."""
    assert [(one.track, one.number, one.sample) for one in measured.references] == [
        (track, number, number) for track in (0, 1) for number in range(5)
    ]
    tools = load_faces(faces_folder())
    samples = {sample.number: sample for sample in read_samples(clip, read_timeline(clip, 2.0))}
    for reference in measured.references:
        assert reference.crop == f"crops/{clip.key[:2]}/{clip.key}_{reference.track}_{reference.number}.png"
        crop = read_picture(dataset / reference.crop)
        expected = tools.reference(samples[reference.sample].picture, 448, 448, face_index=reference.track)
        assert np.array_equal(crop, expected.canvas)
        assert expected.embedding is not None and np.allclose(reference.embedding, expected.embedding, atol=1e-5)
        assert np.linalg.norm(reference.embedding) == pytest.approx(1, abs=1e-5)
        assert reference.time_s == 0.5 * reference.sample and 0 < reference.area < 0.2


def test_the_thumbnail_shows_the_middle(measured: Measured, clip: ClipSource) -> None:
    picture = np.asarray(Image.open(io.BytesIO(measured.thumbnail)).convert("RGB"), float)
    samples = list(read_samples(clip, read_timeline(clip, 2.0)))
    distances = [np.abs(picture - sample.picture).mean() for sample in samples]
    assert picture.shape == (128, 128, 3) and distances[2] == min(distances) < 10


def test_the_clip_is_known_by_its_bytes(clip: ClipSource, measured: Measured, tmp_path: Path) -> None:
    copy = shutil.copy(clip.path, tmp_path / "other.mp4")
    assert clip_id(ClipSource(path=str(copy), caption="A man.")) == measured.clip_id and len(measured.clip_id) == 32
    assert clip_id(replace(clip, end_s=1.0)) != measured.clip_id


def test_a_detector_alone_is_enough(clip: ClipSource, tmp_path: Path) -> None:
    """No recogniser: identities are not checked, which is said. No parser: the background stays."""
    pack = tmp_path / "pack"
    pack.mkdir()
    shutil.copy(faces_folder() / "scrfd.onnx", pack)
    (pack / "pack.json").write_text('{"det_size": 160}')
    found = Measurer(CONFIG, pack, tmp_path)(clip)
    assert found.measures.cosines == ((), ()) and found.measures.num_people == (2,) * 5
    assert unchecked(found.measures, CONFIG, "A man.") == ("identity varies", "identity changes")
    assert decide(found.measures, CONFIG).keep
    assert {reference.embedding.shape for reference in found.references} == {(0,)}
    crop = read_picture(tmp_path / found.references[0].crop)
    assert crop.shape == (448, 448, 3) and (crop == 0).all(-1).mean() < 0.05


def test_more_people_than_wanted_are_counted_and_not_compared(clip: ClipSource, tmp_path: Path) -> None:
    config = CONFIG.override(["measuring.max_people=1"])
    found = Measurer(config, faces_folder(), tmp_path)(clip)
    assert found.measures.num_people == (2,) * 5 and found.measures.cosines == () and found.references == ()
    assert decide(found.measures, config).reason == "too many people"


def test_what_is_too_long_is_not_decoded(clip: ClipSource, tmp_path: Path, monkeypatch) -> None:
    import likeness.curate.measure as measure

    monkeypatch.setattr(measure, "read_samples", lambda *_: pytest.fail("nothing is to be decoded"))
    config = CONFIG.override(["measuring.max_samples=4"])
    found = Measurer(config, faces_folder(), tmp_path)(clip)
    verdict = decide(found.measures, config)
    assert (verdict.reason, verdict.value, verdict.threshold) == ("too long", 5, 4)
    assert found.thumbnail == b"" and found.references == ()
