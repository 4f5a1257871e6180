"""The order law, batches from files and from a store, and what happens to broken pairs."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from training_pairs import SIZE, make_pairs, same, tensors_of

from likeness.errors import UserError
from likeness.media import write_picture, write_video
from likeness.train.loader import PairLoader
from likeness.train.order import Order
from likeness.train.pairs import Pair
from likeness.types import Video

GROUPS = st.lists(st.integers(1, 20), min_size=1, max_size=3)


def grouped(sizes):
    numbers = itertools.count()
    return {name: [next(numbers) for _ in range(size)] for name, size in enumerate(sizes)}


def shown(order, batches, batch_size):
    """(group, pair) of every sample of the first batches."""
    result = []
    for index in range(batches):
        place = order.place(index)
        result.append([(place.group, order.pair(place.group, place.start + i)) for i in range(batch_size)])
    return result


@given(sizes=GROUPS, batch_size=st.integers(1, 8), seed=st.integers(-5, 2**64), epochs=st.integers(1, 3))
def test_every_pair_comes_equally_often(sizes, batch_size, seed, epochs):
    groups = grouped(sizes)
    order = Order(groups, batch_size, seed)
    batches = sum(size * epochs // batch_size for size in sizes)
    seen = shown(order, batches, batch_size)
    assert all(len({group for group, _ in batch}) == 1 for batch in seen)
    counts = Counter(pair for batch in seen for _, pair in batch)
    for group in groups.values():
        filled = len(group) * epochs // batch_size * batch_size
        assert sum(counts[pair] for pair in group) == filled
        assert {counts[pair] for pair in group} <= {filled // len(group), filled // len(group) + 1}
        if filled == len(group) * epochs:
            assert all(counts[pair] == epochs for pair in group)


@given(sizes=GROUPS, batch=st.integers(1, 3), seed=st.integers(0, 9))
def test_what_is_shown_does_not_depend_on_the_number_of_processes(sizes, batch, seed):
    """After as many epochs as make every batch come out even, each pair was shown as often with 1, 2 and 3 processes."""
    epochs = 6 * batch
    counts = []
    for world in (1, 2, 3):
        batches = sum(sizes) * epochs // (batch * world)
        seen = shown(Order(grouped(sizes), batch * world, seed), batches, batch * world)
        counts.append(Counter(pair for whole in seen for _, pair in whole))
    assert counts[0] == counts[1] == counts[2] == dict.fromkeys(range(sum(sizes)), epochs)


@given(size=st.integers(1, 30), one=st.integers(1, 7), other=st.integers(1, 7), seed=st.integers(0, 9))
def test_one_group_is_the_same_stream_for_any_batch(size, one, other, seed):
    count = one * other * 3
    streams = [
        [pair for batch in shown(Order({0: range(size)}, n, seed), count // n, n) for _, pair in batch]
        for n in (one, other)
    ]
    assert streams[0] == streams[1]
    assert sorted(streams[0][:size]) == list(range(min(size, count))) or count < size


def test_epochs_and_seeds_differ():
    streams = [shown(Order({0: range(50)}, 1, seed), 100, 1) for seed in (0, 1)]
    assert streams[0] != streams[1]
    assert streams[0][:50] != streams[0][50:]


def loader(pairs, backbone, **options):
    return PairLoader(pairs, backbone, **{**SIZE, "store": None, "batch_size": 2, "seed": 3, **options})


def test_a_batch(random_wan_backbone, tmp_path):
    pairs = make_pairs(tmp_path, 4, references=(2,))
    batch = loader(pairs, random_wan_backbone).batch(0)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(batch).items()}
    reference = (2, 3, 1, 32, 32)
    assert shapes == {
        "latents": (2, 4, 2, 4, 4), "prompt_embeds": (2, 12, 16), "reference 0": reference, "reference 1": reference,
    }  # fmt: skip
    assert all(tensor.dtype == torch.float32 for tensor in tensors_of(batch).values())
    assert -1 <= batch.references[0].min() < batch.references[0].max() <= 1


def test_ranks_together_are_one_process(random_wan_backbone, tmp_path):
    pairs = make_pairs(tmp_path, 7)
    for index in (0, 2, 5):
        whole = tensors_of(loader(pairs, random_wan_backbone, batch_size=4).batch(index))
        shares = [
            tensors_of(loader(pairs, random_wan_backbone, batch_size=2, rank=rank, world_size=2).batch(index))
            for rank in (0, 1)
        ]
        for name, tensor in whole.items():
            assert torch.equal(tensor, torch.cat([share[name] for share in shares]))


@pytest.mark.parametrize("workers", [0, 3])
def test_reading_ahead_changes_nothing(random_wan_backbone, tmp_path, workers):
    made = loader(make_pairs(tmp_path, 5), random_wan_backbone, workers=workers)
    with_workers = list(itertools.islice(made.batches(3), 4))
    assert all(same(batch, made.batch(3 + index)) for index, batch in enumerate(with_workers))
    assert made.waited_s > 0 and made.encoded_s > 0


def test_clothing_is_mirrored_in_half_of_its_showings_and_nothing_else_ever(random_wan_backbone, tmp_path):
    """Concat-ID appendix B.2. Which showings follows from the seed and the place, however many processes share a batch."""
    kinds = ("face", "clothing", "background")
    pairs = [replace(pair, kinds=kinds) for pair in make_pairs(tmp_path, 4, references=(3,))]
    flipping = {"flipped_kinds": ("clothing",)}
    plain, made = (
        loader(pairs, random_wan_backbone, batch_size=4),
        loader(pairs, random_wan_backbone, batch_size=4, **flipping),
    )
    halves = [loader(pairs, random_wan_backbone, rank=rank, world_size=2, **flipping) for rank in (0, 1)]
    num_flipped = 0
    for index in range(25):
        before, after = plain.batch(index), made.batch(index)
        assert torch.equal(before.references[0], after.references[0])
        assert torch.equal(before.references[2], after.references[2])
        for clothing, shown_as in zip(before.references[1], after.references[1], strict=True):
            is_flipped = torch.equal(shown_as, clothing.flip(-1))
            assert is_flipped or torch.equal(shown_as, clothing)
            num_flipped += is_flipped
        assert torch.equal(torch.cat([half.batch(index).references[1] for half in halves]), after.references[1])
    assert 35 <= num_flipped <= 65  # of 100: three deviations of a fair coin


def test_buckets_and_numbers_of_references_do_not_mix(random_wan_backbone, tmp_path):
    pairs = make_pairs(tmp_path, 8, sizes=((32, 64), (64, 32), (32, 64), (32, 32)), references=(1, 2))
    made = loader(pairs, random_wan_backbone, buckets=((32, 64), (64, 32)), batch_size=1)
    shapes = Counter()
    for index in range(made.num_batches_per_epoch):
        batch = made.batch(index)
        shapes[(tuple(batch.latents.shape[3:]), len(batch.references))] += 1
        assert tuple(batch.references[0].shape[3:]) == tuple(8 * side for side in batch.latents.shape[3:])
    assert shapes == {((4, 8), 1): 4, ((8, 4), 2): 2, ((4, 4), 2): 2}


def test_masks_and_keypoints(random_wan_backbone, tmp_path):
    first, second = make_pairs(tmp_path, 2)
    points = np.arange(5 * 5 * 2, dtype=np.float32).reshape(1, 5, 5, 2)
    points[:, 3] = np.nan
    save_file({"keypoints": points}, tmp_path / "f.safetensors")
    half = np.zeros((32, 32, 3), np.uint8)
    half[:, :12] = 255
    write_picture(tmp_path / "m.png", half)
    full = Pair(video=first.video, caption="x", references=first.references, mask=tmp_path / "m.png",
                faces=tmp_path / "f.safetensors", source="x")  # fmt: skip
    made = loader([full, second], random_wan_backbone)
    batch = made.batch(0)
    row = next(index for index in range(2) if not batch.keypoints[index].isnan().all())
    np.testing.assert_array_equal(batch.keypoints[row], points)
    assert batch.keypoints[1 - row].isnan().all()
    assert batch.masks[row, 0, 0].tolist() == [[1, 0.5, 0, 0]] * 4
    assert (batch.masks[1 - row] == 1).all()
    save_file({"keypoints": points[:, :4]}, tmp_path / "f.safetensors")
    with pytest.raises(UserError, match=r"4 frames; frame 4 of the clip"):
        loader([full], random_wan_backbone, batch_size=1).batch(0)


def test_a_mask_may_move(random_wan_backbone, tmp_path):
    (pair,) = make_pairs(tmp_path, 1)
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[1:3, :, 16:] = 255  # the right half, in two of the four frames of the second latent
    write_video(tmp_path / "m.mp4", Video(frames, 8.0))
    masks = loader([replace(pair, mask=tmp_path / "m.mp4")], random_wan_backbone, batch_size=1).batch(0).masks
    assert masks.shape == (1, 1, 2, 4, 4) and (masks[0, 0, 0] == 0).all()
    torch.testing.assert_close(masks[0, 0, 1], torch.tensor([0, 0, 0.5, 0.5]).expand(4, 4), atol=0.07, rtol=0)


def break_clip(pair):
    pair.video.write_bytes(b"no clip")


def test_a_broken_pair_is_replaced_and_named(random_wan_backbone, tmp_path, caplog):
    pairs = make_pairs(tmp_path, 6)
    whole = loader(pairs, random_wan_backbone, batch_size=6, max_skipped=0.5).batch(0)
    break_clip(pairs[2])
    pairs[4].references[0].unlink()
    made = loader(pairs, random_wan_backbone, batch_size=6, max_skipped=0.5)
    batch = made.batch(0)
    assert set(made.skipped) == {"pairs, entry 3", "pairs, entry 5"}
    assert "cannot be opened" in made.skipped["pairs, entry 3"] and "4_0.png" in made.skipped["pairs, entry 5"]
    made.batch(1)
    assert sorted(line.split(":")[0] for line in caplog.messages) == [
        "Skipped pairs, entry 3",
        "Skipped pairs, entry 5",
    ]
    order = [next(i for i in range(6) if torch.equal(row, whole.latents[i])) for row in batch.latents]
    # Rows of good pairs stay; a broken one shows the next good one after it.
    broken = [i for i, row in enumerate(order) if row != i]
    assert len(broken) == 2 and all(order[i] not in broken for i in range(6))
    # A run that starts in the middle, or is shared, finds the same.
    again = loader(pairs, random_wan_backbone, batch_size=3, rank=1, world_size=2, max_skipped=0.5, workers=2)
    assert torch.equal(next(again.batches(0)).latents, batch.latents[3:])


def test_too_many_broken_pairs_stop_the_run(random_wan_backbone, tmp_path):
    pairs = make_pairs(tmp_path, 6)
    for pair in pairs[:2]:
        break_clip(pair)
    made = loader(pairs, random_wan_backbone, batch_size=6, max_skipped=0.2)
    with pytest.raises(
        UserError, match=r"2 of \d training pairs cannot be read, more than data\.max_skipped = 0\.2.*entry"
    ):
        made.batch(0)
    for pair in pairs:
        break_clip(pair)
    with pytest.raises(UserError, match="None of 6 pairs can be read"):
        loader(pairs, random_wan_backbone, max_skipped=1.0).batch(0)


@pytest.mark.parametrize(("change", "words"), [({"height": 33}, "multiple of 16"), ({"num_frames": 6}, "5 or 9"),
                                               ({"buckets": ((32, 40),)}, "width of 40")])  # fmt: skip
def test_sizes_are_checked_first(random_wan_backbone, tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        loader(make_pairs(tmp_path, 1), random_wan_backbone, **change)
