"""The demo: four files, the same bytes twice; and the trained tiny family, once it is in the checkout."""

import json

import pytest

from likeness import demo as module
from likeness.backbones import known
from likeness.media import read_video, sha256_file
from likeness.world import VALIDATION_PEOPLE
from likeness.world.folder import is_drawn


def test_the_demo_makes_the_same_files_twice(model, tmp_path, monkeypatch, files_of):
    monkeypatch.setitem(known.MODELS, "tiny", known.KnownModel("random weights", folder=model))
    made = module.demo(tmp_path / "demo")
    first = files_of(tmp_path / "demo")
    assert set(first) == {"photograph.png", "video.mp4", "sheet.png", "video.json"}
    assert {path.name for name, path in made.items() if name != "similarity"} == set(first)
    assert is_drawn(tmp_path / "demo/photograph.png") and module.PERSON in VALIDATION_PEOPLE
    assert json.loads(first["video.json"])["model_name"] == "tiny"
    assert module.demo(tmp_path / "demo") == made
    assert files_of(tmp_path / "demo") == first


def test_without_the_weights_the_demo_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(known.MODELS, "tiny", known.KnownModel("no weights", folder=tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        module.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: The weights of model 'tiny' are not installed")


@pytest.mark.usefixtures("tiny_folder")
class TestTrained:
    """With the shipped weights and the shipped face models."""

    @pytest.fixture(autouse=True)
    def quick_faces(self):
        """Replaces the fixture of that name: the real face models here."""

    def test_the_demo_resembles_its_photograph(self, tmp_path):
        made = module.demo(tmp_path)
        assert made["similarity"] is not None and made["similarity"] > 0.3
        record = json.loads((tmp_path / "video.json").read_text())
        assert record["references"][0]["face"] is not None
        assert record["sha256"] == sha256_file(tmp_path / "video.mp4")
        assert read_video(tmp_path / "video.mp4").fps == record["settings"]["fps"]

    def test_cards_say_that_only_drawn_people_were_seen(self, tiny_folder):
        from likeness.faces import faces_folder
        from likeness.generate.studio import trained_on

        assert trained_on(tiny_folder) == "drawn people"
        assert trained_on(faces_folder()) == "drawn people"
