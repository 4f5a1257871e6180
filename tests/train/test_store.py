"""What a store keeps, refuses and survives."""

import itertools
import os
from pathlib import Path

import pytest
import torch
from training_pairs import SIZE, make_pairs, same

from likeness.backbones.wan import WanBackbone
from likeness.errors import CheckpointError, UserError
from likeness.train.clips import FrameRule
from likeness.train.fingerprint import text_fingerprint, video_fingerprint
from likeness.train.loader import PairLoader
from likeness.train.samples import Samples
from likeness.train.store import Store, halved, key_of

RULE, SIZES = FrameRule(5, 8.0), ((32, 32),)


@pytest.fixture
def store(tmp_path, random_wan_backbone):
    return Store.create(tmp_path / "store", random_wan_backbone, RULE, SIZES)


def reopened(store, backbone, **options):
    return Store.open(store.folder, backbone, **options)


def test_tensors_come_back(store, random_wan_backbone):
    tensors = {key_of("a", index): torch.randn(3, index + 1) for index in range(4)}
    tensors[key_of("a", 3)] = torch.randn(4, 3).T  # as views of larger arrays come
    store.add(tensors)
    store.add({key_of("b"): torch.arange(5, dtype=torch.uint8)})
    for there in (store, reopened(store, random_wan_backbone)):
        assert len(there) == 5 and key_of("b") in there and key_of("c") not in there
        assert all(torch.equal(there.read(key), tensor) for key, tensor in tensors.items())
        assert there.read(key_of("c")) is None


def test_shards_are_opened_once_and_hold_no_descriptor(store, random_wan_backbone, monkeypatch):
    """Opening one reads its whole list of keys, several times what reading a tensor takes."""
    from likeness.train import store as module

    for index in range(100):
        store.add({key_of("a", index): torch.full((2,), float(index))})
    opened = []
    safe_open = module.safe_open
    monkeypatch.setattr(module, "safe_open", lambda path, **more: opened.append(path) or safe_open(path, **more))
    there = reopened(store, random_wan_backbone)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    for _ in range(2):
        for index in range(100):
            tensor = there.read(key_of("a", index))
            assert tensor is not None and tensor[0] == index
    assert len(opened) == len(set(opened)) == 100
    assert before is None or len(os.listdir("/proc/self/fd")) < before + 10


def test_keys_tell_everything_apart():
    keys = {
        key_of(*parts) for parts in itertools.product("ab", ("x", "y"), (RULE, FrameRule(5, 9.0)), ((1, 2), (2, 1)))
    }
    assert len(keys) == 16


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize("damage", ["lost", "overwritten", "behind"])
def test_the_index_is_made_again(store, random_wan_backbone, damage, writable):
    store.add({"a": torch.ones(2)})
    index = store.folder / "index.sqlite"
    if damage == "lost":
        index.unlink()
    elif damage == "overwritten":
        index.write_bytes(b"no database at all" * 100)
    else:  # killed between the shard and the index
        Store.write_shard(store.folder, {"b": torch.zeros(2)})
    there = reopened(store, random_wan_backbone, writable=writable)
    assert torch.equal(there.read("a"), torch.ones(2))
    assert ("b" in there) == (damage == "behind")


def test_half_shards_of_killed_runs_are_left_out_and_cleared_away(store, random_wan_backbone):
    half = store.folder / "shards" / ".x.tmp.safetensors"
    store.add({"a": torch.ones(2)})
    half.write_bytes(b"half")
    assert len(reopened(store, random_wan_backbone, writable=True)) == 1
    assert half.exists(), "another run may be writing it"
    os.utime(half, (1, 1))
    reopened(store, random_wan_backbone, writable=True)
    assert not half.exists()


def test_a_shard_that_was_removed_is_forgotten(store, random_wan_backbone):
    store.add({"a": torch.ones(2)})
    (first,) = (store.folder / "shards").iterdir()
    store.add({"b": torch.ones(2)})
    first.unlink()
    again = reopened(store, random_wan_backbone, writable=True)
    assert "a" not in again and "b" in again


def test_a_damaged_shard_is_named(store, random_wan_backbone):
    store.add({"a": torch.ones(2)})
    (path,) = (store.folder / "shards").iterdir()
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match=path.name):
        reopened(store, random_wan_backbone).read("a")


def test_other_weights_and_sizes_are_refused(store, random_wan_components, random_wan_backbone):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        vae = type(random_wan_components["vae"]).from_config(random_wan_components["vae"].config).eval()
    with pytest.raises(UserError, match="VAE of another model"):
        reopened(store, WanBackbone(**{**random_wan_components, "vae": vae}))
    for rule, sizes in ((FrameRule(9, 8.0), SIZES), (FrameRule(5, 4.0), SIZES), (RULE, ((32, 64),))):
        with pytest.raises(UserError, match="holds 5 frames at 8 a second of 32 x 32 px"):
            Store.create(store.folder, random_wan_backbone, rule, sizes)


def test_a_folder_that_is_no_store(tmp_path, random_wan_backbone):
    with pytest.raises(UserError, match="no store"):
        Store.open(tmp_path / "none", random_wan_backbone)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        Store.create(tmp_path, random_wan_backbone, RULE, SIZES)
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"store\.json is damaged"):
        Store.open(tmp_path, random_wan_backbone)


def test_fingerprints_do_not_depend_on_the_type_weights_are_loaded_in(random_wan_components, tmp_path):
    from likeness.backbones.load import load_backbone
    from likeness.method import CONCAT_ID_WAN
    from likeness.pipeline import LikenessPipeline

    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN).save_pretrained(tmp_path)
    fresh = WanBackbone(**random_wan_components)
    wanted = (video_fingerprint(fresh), text_fingerprint(fresh))
    opened = [
        load_backbone(tmp_path, encoders_only=True),
        load_backbone(tmp_path, dtype=torch.bfloat16, vae_dtype=torch.bfloat16),
        LikenessPipeline.from_pretrained(tmp_path).backbone,
    ]
    assert [(video_fingerprint(backbone), text_fingerprint(backbone)) for backbone in opened] == [wanted] * 3


def test_halves():
    latents = torch.randn(1000)
    assert halved(latents).dtype == torch.float16
    assert halved(latents.bfloat16()).dtype == torch.bfloat16
    far = torch.tensor([1e6, 1.0])
    assert halved(far).isfinite().all()


class Counted:
    """How many files were hashed."""

    def __init__(self, monkeypatch):
        import likeness.train.store as module

        self.paths = []
        true = module.sha256_file
        monkeypatch.setattr(module, "sha256_file", lambda path: self.paths.append(path) or true(path))


def test_files_are_hashed_once(store, random_wan_backbone, tmp_path, monkeypatch):
    path, counted = tmp_path / "clip", Counted(monkeypatch)
    path.write_bytes(b"one")
    first = store.file(path).sha256
    assert store.file(path).sha256 == first and len(counted.paths) == 1
    store.add({}, store.take_new_files())
    assert store.take_new_files() == []
    again = reopened(store, random_wan_backbone)
    assert again.file(path).sha256 == first and len(counted.paths) == 1
    os.utime(path, ns=(1, 1))
    assert again.file(path).sha256 == first and len(counted.paths) == 2
    path.write_bytes(b"two")
    assert again.file(path).sha256 != first
    path.unlink()
    assert reopened(store, random_wan_backbone).file(path).sha256 == first, "what was encoded of a file outlives it"
    with pytest.raises(UserError, match="no file"):
        store.file(Path("nothing"))


def filled(folder, backbone, pairs, rule=RULE):
    """A store with everything of some pairs."""
    store = Store.create(folder, backbone, rule, SIZES)
    samples = Samples(backbone, rule, store=store, made={})
    for pair in pairs:
        samples.encode(samples.load(pair, 32, 32))
    store.add(samples.made, store.take_new_files())
    return store


def test_training_sees_the_same_with_and_without(random_wan_backbone, tmp_path, monkeypatch):
    pairs = make_pairs(tmp_path, 4, references=(2,))
    half = filled(tmp_path / "store", random_wan_backbone, pairs[:2])

    def batches(store):
        loader = PairLoader(pairs, random_wan_backbone, **SIZE, store=store, batch_size=2, seed=0)
        return [loader.batch(index) for index in range(2)]

    plain = batches(None)
    assert all(map(same, plain, batches(half)))
    whole = filled(tmp_path / "store", random_wan_backbone, pairs)
    for name in ("encode_video", "encode_text"):
        monkeypatch.setattr(random_wan_backbone, name, None)
    for pair in pairs:
        pair.video.unlink()
        pair.references[0].unlink()
    assert all(map(same, plain, batches(whole)))


def test_prompts_are_stored_without_their_end(random_wan_backbone, tmp_path):
    (pair,) = make_pairs(tmp_path, 1)
    store = filled(tmp_path / "store", random_wan_backbone, [pair])
    samples = Samples(random_wan_backbone, RULE, store=store)
    loaded = samples.load(pair, 32, 32)
    assert loaded.prompt is not None and len(loaded.prompt) == 6  # a man in the park, and the end
    full = samples.encode(loaded).prompt_embeds
    assert full.shape == (12, 16) and (full[6:] == 0).all()
    torch.testing.assert_close(full, random_wan_backbone.encode_text([pair.caption])[0], atol=2e-3, rtol=0)


def test_every_family_goes_through_a_store(random_cogvideox_backbone, tmp_path):
    pairs = make_pairs(tmp_path, 2, num_frames=9)
    store = filled(tmp_path / "store", random_cogvideox_backbone, pairs, FrameRule(9, 8.0))
    size = {**SIZE, "num_frames": 9}
    plain, stored = (
        PairLoader(pairs, random_cogvideox_backbone, **size, store=given, batch_size=2, seed=0).batch(0)
        for given in (None, store)
    )
    assert same(plain, stored)
    assert plain.latents.shape[2] == 3
    assert plain.prompt_embeds.shape == random_cogvideox_backbone.encode_text([pair.caption for pair in pairs]).shape
