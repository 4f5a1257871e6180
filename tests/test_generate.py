"""Planning: settings, prompts, names of files. What needs a model is in tests/cli."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.batch import BatchItem
from likeness.errors import UserError
from likeness.generate import Settings, plan, prompt_text
from likeness.sidecar import SAMPLED_ABOVE_BYTES, digest_of, folder_hashes, portable_path

ANN = (Path("ann.jpg"),)


def names(items, settings=None, folder=Path("new-folder")):
    return [job.output.name for job in plan(items, folder, settings or Settings())]


def test_names_do_not_depend_on_the_order():
    items = [BatchItem(text, ANN, "") for text in ("A man waves.", "A man, waves", "It snows")]
    forwards = dict(zip(items, names(items), strict=True))
    assert forwards[items[0]] == "ann_a_man_waves_seed0.mp4"
    assert len(set(forwards.values())) == 3
    assert names([items[2]]) == [forwards[items[2]]]


def test_keys_name_videos_and_cannot_leave_the_folder():
    items = [BatchItem("p", ANN, "", key=key) for key in ("07", "../../evil", "a b", "a/b", ".hidden", "...")]
    assert names(items)[:2] == ["07.mp4", "evil.mp4"]
    assert all("/" not in name and not name.startswith(".") for name in names(items))
    assert len({name.casefold() for name in names(items)}) == len(items)


@given(st.lists(st.tuples(st.text(max_size=80), st.text(max_size=30)), min_size=1, max_size=8))
def test_every_video_gets_a_name_of_its_own(pairs):
    items = [BatchItem(prompt, (Path((photo.replace("/", "") or "x") + ".png"),), "") for prompt, photo in pairs]
    found = names(items)
    assert len({name.casefold() for name in found}) == len(items)
    assert all(len(name.encode()) <= 255 and "\0" not in name and "/" not in name for name in found)


def test_an_items_own_seed_wins():
    jobs = plan([BatchItem("p", ANN, "", seed=5), BatchItem("p", ANN, "")], Path("new-folder"), Settings(seed=1))
    assert [job.settings.seed for job in jobs] == [5, 1]
    assert [job.output.name for job in jobs] == ["ann_p_seed5.mp4", "ann_p_seed1.mp4"]


def test_prompt_is_a_text_or_a_text_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("\ufeffsays\n  hello ", encoding="utf-8")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe")
    assert prompt_text("p.txt") == "says hello"
    assert prompt_text("a man reads p.txt") == "a man reads p.txt"
    assert prompt_text("x" * 5000) == "x" * 5000
    for wrong, words in (("q.txt", "no prompt file"), ("binary.txt", "UTF-8"), ("  ", "empty")):
        with pytest.raises(UserError, match=words):
            prompt_text(wrong)


def test_fingerprints_see_a_changed_byte_but_not_the_card(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/weights.safetensors").write_bytes(b"weights")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / ".cache").write_text("x")
    hashes = folder_hashes(tmp_path)
    assert hashes == {"a/weights.safetensors": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / "a/weights.safetensors").write_bytes(b"weighty")
    assert folder_hashes(tmp_path) != hashes


def test_large_files_are_sampled(tmp_path):
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(SAMPLED_ABOVE_BYTES + 1)  # a sparse file: no space, no time
    first = folder_hashes(tmp_path)["large.safetensors"]
    assert first.startswith("sampled:")
    with path.open("r+b") as file:
        file.seek(SAMPLED_ABOVE_BYTES)
        file.write(b"x")
    assert folder_hashes(tmp_path)["large.safetensors"] != first


def test_digests_do_not_depend_on_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2.5, None]}) == digest_of({"b": [2.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


def test_paths_in_a_sidecar_are_relative_to_it(tmp_path):
    assert portable_path(tmp_path / "photos/ann.jpg", tmp_path / "out/v.mp4") == "../photos/ann.jpg"
