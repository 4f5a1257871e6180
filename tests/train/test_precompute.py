"""Filling a store: what is made, what a kill costs, what is skipped."""

import errno
import json
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from training_pairs import SIZE, make_pairs, same

import likeness.train.precompute as precompute_module
import likeness.train.samples as samples_module
from likeness.errors import UserError
from likeness.faces import faces_folder
from likeness.train.clips import FrameRule
from likeness.train.loader import PairLoader
from likeness.train.pairs import Pair, read_pairs
from likeness.train.precompute import DefaultSize, Settings, default_size, pick_device, precompute
from likeness.train.store import Store


@pytest.fixture(scope="module")
def model(random_wan_components, tmp_path_factory):
    from likeness.method import CONCAT_ID_WAN
    from likeness.pipeline import LikenessPipeline

    folder = tmp_path_factory.mktemp("model")
    sizes = {"default_num_frames": 5, "default_height": 32, "default_width": 32, "default_fps": 8}
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN, **sizes).save_pretrained(folder)
    return folder


@pytest.fixture
def settings(model, tmp_path):
    return Settings(model=str(model), output=tmp_path / "store", rule=FrameRule(5, 8.0), sizes=((32, 32),))


def is_complete(settings, backbone, pairs, monkeypatch):
    """Whether training finds everything in the store, and the numbers that it would make itself."""
    wanted = PairLoader(pairs, backbone, **SIZE, store=None, batch_size=len(pairs), seed=0).batch(0)
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "encode_video", None)
        store = Store.open(settings.output, backbone)
        patch.setattr(backbone, "encode_text", None)
        return same(PairLoader(pairs, backbone, **SIZE, store=store, batch_size=len(pairs), seed=0).batch(0), wanted)


def test_everything_is_stored_once(settings, random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 5)
    # A second pair of a clip, as curation makes many; a caption that others have too.
    pairs.append(replace(pairs[0], references=pairs[1].references, source="again"))
    calls = Counter()
    kind = type(random_wan_backbone)
    for name in ("encode_video", "encode_text"):
        true = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda self, x, true=true, name=name: calls.update([name]) or true(self, x))
    true_read = samples_module.read_clip
    monkeypatch.setattr(samples_module, "read_clip", lambda *args: calls.update(["read"]) or true_read(*args))
    reports = []
    report = precompute(pairs, settings, reports.append)
    assert calls["read"] == 5
    assert (report.done, report.total, report.encoded, report.skipped) == (6, 6, 6, 0)
    assert [item.done for item in reports] == sorted(item.done for item in reports)
    assert calls["encode_video"] == 5
    calls.clear()
    assert precompute(pairs, settings).encoded == 0
    assert not calls
    assert is_complete(settings, random_wan_backbone, pairs, monkeypatch)
    assert not (settings.output / "skipped.jsonl").exists()


def _killed(pairs, settings, after):
    precompute(pairs, settings, lambda report: os.kill(os.getpid(), signal.SIGKILL) if report.done == after else None)


def test_a_killed_run_loses_one_shard_at_most(settings, random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 8)
    monkeypatch.setattr(precompute_module, "_SHARD_PAIRS", 2)
    kept = 0
    for after in (3, 6):
        process = multiprocessing.get_context("fork").Process(target=_killed, args=(pairs, settings, after))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        store = Store.open(settings.output, random_wan_backbone)
        assert len(store) >= kept
        kept = len(store)
    report = precompute(pairs, settings)
    assert report.encoded <= 8 - (6 - 2) and report.done == 8
    assert is_complete(settings, random_wan_backbone, pairs, monkeypatch)


def test_broken_clips_are_named(settings, random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 6)
    pairs[1].video.unlink()
    pairs[4].video.write_bytes(pairs[4].video.read_bytes()[:900])
    report = precompute(pairs, replace(settings, max_skipped=0.4))
    assert (report.encoded, report.skipped) == (4, 2)
    lines = [json.loads(line) for line in (settings.output / "skipped.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["pairs, entry 2", "pairs, entry 5"]
    assert "no file" in lines[0]["reason"] and "4.mp4" in lines[1]["reason"]
    make_pairs(tmp_path / "data", 6)  # mended
    assert precompute(pairs, settings).encoded == 2
    assert not (settings.output / "skipped.jsonl").exists()
    assert is_complete(settings, random_wan_backbone, pairs, monkeypatch)


def test_too_many_broken_clips_stop_it(settings, tmp_path):
    pairs = make_pairs(tmp_path / "data", 4)
    pairs[2].video.unlink()
    with pytest.raises(
        UserError, match=r"1 of \d training pairs cannot be read, more than --max-skipped = 0\.1.*entry 3"
    ):
        precompute(pairs, replace(settings, max_skipped=0.1))
    assert "entry 3" in (settings.output / "skipped.jsonl").read_text()


def test_a_full_disk(settings, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 4)
    monkeypatch.setattr(precompute_module, "_SHARD_PAIRS", 2)
    true, written = os.fsync, []

    def full(descriptor):
        written.append(descriptor)
        if len(written) == 3:  # store.json, a shard, this shard
            raise OSError(errno.ENOSPC, "No space left on device")
        true(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk filled up"):
        precompute(pairs, settings)
    report = precompute(pairs, settings)
    assert (report.done, report.encoded) == (4, 2), "the first shard is intact"


def test_buckets(settings, random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 4, sizes=((32, 64), (64, 32)))
    buckets = ((32, 64), (64, 32))
    precompute(pairs, replace(settings, sizes=((32, 32), *buckets)))
    store = Store.open(settings.output, random_wan_backbone)
    assert [store.aspect(pair.video) for pair in pairs] == [2.0, 0.5, 2.0, 0.5]
    import likeness.train.loader as loader_module

    monkeypatch.setattr(loader_module, "aspect_of", None)
    monkeypatch.setattr(random_wan_backbone, "encode_video", None)
    loader = PairLoader(pairs, random_wan_backbone, **SIZE, buckets=buckets, store=store, batch_size=2, seed=0)
    assert {tuple(loader.batch(index).latents.shape[3:]) for index in range(2)} == {(4, 8), (8, 4)}


@pytest.mark.slow
def test_processes_make_the_same(settings, random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path / "data", 6)
    pairs[3].video.unlink()
    report = precompute(pairs, replace(settings, processes=2, max_skipped=0.5))
    assert (report.done, report.encoded, report.skipped) == (6, 5, 1)
    del pairs[3]
    assert is_complete(settings, random_wan_backbone, pairs, monkeypatch)


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """A clip of two drawn people and their photographs, the one on the right first."""
    from likeness.world.folder import draw_people

    folder = tmp_path_factory.mktemp("people")
    draw_people(folder, first=800_600, num=2, clips=1, people=2)
    (pair,) = read_pairs([folder])
    return replace(pair, references=pair.references[::-1])


def test_faces_are_found_and_told_apart(settings, tiny_folder, two_people, random_wan_backbone):
    from likeness.faces.pack import FacePack
    from likeness.world import clip_of, draw

    wide = replace(settings, rule=FrameRule(17, 8.0), sizes=((64, 64),), faces=faces_folder(None))
    assert precompute([two_people], wide).faceless == 0
    pack = FacePack.load(faces_folder(None))
    store = Store.open(settings.output, random_wan_backbone)
    loader = PairLoader([two_people], random_wan_backbone, num_frames=17, height=64, width=64, fps=8.0, store=store,
                        batch_size=1, seed=0, faces=pack)  # fmt: skip
    batch = loader.batch(0)
    assert batch.reference_embeddings is not None and batch.keypoints is not None
    torch.testing.assert_close(batch.reference_embeddings.norm(dim=-1), torch.ones(1, 2))
    truth = draw([clip_of((800_600, 800_601), 0)]).keypoints[0].transpose(1, 0, 2, 3)[::-1]  # [P, F, 5, 2]
    found = batch.keypoints[0].numpy()
    seen = ~np.isnan(found).any((2, 3))
    assert seen.mean() > 0.7
    assert np.abs(found - truth)[seen].mean() < 1.5
    other = replace(pack, det_threshold=0.4)
    with pytest.raises(UserError, match="other face models"):
        PairLoader([two_people], random_wan_backbone, num_frames=17, height=64, width=64, fps=8.0, store=store,
                   batch_size=1, seed=0, faces=other)  # fmt: skip
    # Without the face models nothing is known of faces.
    plain = PairLoader([two_people], random_wan_backbone, num_frames=17, height=64, width=64, fps=8.0, store=store,
                       batch_size=1, seed=0)  # fmt: skip
    assert plain.batch(0).keypoints is None and plain.batch(0).reference_embeddings is None


def test_references_without_a_face_are_told_of(settings, tiny_folder, random_wan_backbone, tmp_path):
    from likeness.faces.pack import FacePack

    (pair,) = make_pairs(tmp_path / "data", 1, references=(2,))
    pair = Pair(video=pair.video, caption="x", references=pair.references, kinds=("face", "background"), source="x")
    pack = FacePack.load(faces_folder(None))
    batch = PairLoader([pair], random_wan_backbone, **SIZE, store=None, batch_size=1, seed=0, faces=pack).batch(0)
    assert batch.reference_embeddings is not None and batch.reference_embeddings.isnan().all()
    report = precompute([pair], replace(settings, faces=faces_folder(None)))
    assert (report.encoded, report.faceless) == (1, 1)


def test_sizes_and_devices(model):
    assert default_size(str(model)) == DefaultSize(5, 32, 32, 8)
    assert pick_device("cpu", 2) == pick_device(None, 2) == "cpu"
    with pytest.raises(UserError, match="--device"):
        pick_device("nonsense", 1)
    with pytest.raises(UserError, match="share the CPU"):
        pick_device("meta", 2)
