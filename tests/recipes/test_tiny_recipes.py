"""The pieces of the tiny family's recipes: data, losses, tokenizer, figures."""

import argparse
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from likeness.recipes import card, measure, pool, text_encoder, vae
from likeness.world import CLOTHES, TURNS, caption_of, clip_of


@pytest.fixture(scope="module")
def shard() -> dict[str, np.ndarray]:
    return pool.draw_shard([5, 6])


def test_a_shard_holds_clips_references_and_captions(shard) -> None:
    assert shard["videos"].shape == (2, 2, 17, 64, 64, 3) and shard["keypoints"].shape == (2, 2, 17, 5, 2)
    assert shard["photos"].shape == (2, 2, 64, 64, 3) and shard["faces"].shape == (2, 2, 2, 64, 64, 3)
    assert shard["captions"][1, 0] == caption_of(clip_of(6, 0))


def test_a_shard_is_the_same_each_time(shard) -> None:
    again = pool.draw_shard([5, 6])
    assert all(np.array_equal(shard[name], again[name]) for name in shard)


def test_references_show_the_face_on_black(shard) -> None:
    for canvas in shard["photos"].reshape(-1, 64, 64, 3):
        assert (canvas[-3:, :3] < 8).all() or (canvas[-3:, -3:] < 8).all()  # a lower corner is never face
        assert canvas[24:40, 24:40].mean() > 20


def test_pixels_and_face_weights(shard) -> None:
    pixels = vae.to_pixels(shard["videos"][0, :1])
    assert pixels.shape == (1, 3, 17, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1
    points = shard["keypoints"][0, :1]
    weights = vae.face_weights(points, 64, 4.0)
    assert weights.shape == (1, 1, 17, 64, 64) and weights.min() >= 1 and weights.max() <= 5
    x, y = points[0, 0].astype(float).mean(0)
    assert weights[0, 0, 0, int(y), int(x)] > 4.5 > 1.2 > weights[0, 0, 0, 0, 0]


def test_eyes_and_mouth_count_more_than_the_rest_of_the_face(shard) -> None:
    points = shard["keypoints"][0, :1]
    plain, heavy = (vae.face_weights(points, 64, 3.0, detail) for detail in (0.0, 12.0))
    assert (heavy >= plain).all() and heavy.max() <= 16 + 1e-4
    added = (heavy - plain)[0, 0, 0]
    eye, mouth = points[0, 0, 0].astype(float), points[0, 0, 3:].astype(float).mean(0)
    assert all(added[int(y), int(x)] > 8 for x, y in (eye, mouth)) and added[0, 0] < 0.1
    assert added[added > 6].numel() < 0.1 * added.numel()


def test_windows_are_about_faces_and_weights_move_with_them(shard, tmp_path) -> None:
    np.savez(tmp_path / "people-000005.npz", **shard)
    arguments = argparse.Namespace(
        pool=tmp_path, face_weight=3.0, detail_weight=12.0, clips=1, crops=3, frames=9, canvases=2, decoder_only=False
    )
    whole, window, pictures = vae._Batches(np.random.default_rng(0), arguments).next()
    assert whole[0].shape == (1, 3, 9, 64, 64) and pictures[0].shape == (2, 3, 1, 64, 64) and pictures[2] == 0.35
    pixels, weights, _ = window
    assert pixels.shape == (3, 3, 9, vae.CROP, vae.CROP) and weights.shape == (3, 1, 9, vae.CROP, vae.CROP)
    edge = torch.cat([weights[..., 0, :].flatten(), weights[..., -1, :].flatten()])
    assert weights[..., 8:24, 8:24].amax((-1, -2)).min() > 9 > 4 > edge.median()
    arguments.decoder_only = True
    assert len(vae._Batches(np.random.default_rng(0), arguments).next()) == 2


def test_the_reconstruction_loss_is_zero_for_equals_and_weighs_the_face() -> None:
    target = torch.rand(1, 3, 2, 8, 8)
    weights = torch.ones(1, 1, 2, 8, 8)
    assert vae.reconstruction_loss(target, target, weights) == 0
    wrong = target.clone()
    wrong[..., 2, 2] += 0.5
    weights[..., 2, 2] = 3.0
    heavy = vae.reconstruction_loss(wrong, target, weights)
    assert heavy > vae.reconstruction_loss(wrong, target, torch.ones_like(weights))


def test_the_tokenizer_knows_captions_and_loses_no_other_text() -> None:
    tokenizer = text_encoder.make_tokenizer([caption_of(clip_of(person, 0)) for person in range(200)])
    tokens = tokenizer(["A woman in a red shirt nods."], padding="max_length", max_length=text_encoder.MAX_TOKENS)
    assert len(tokens.input_ids[0]) == text_encoder.MAX_TOKENS and sum(tokens.attention_mask[0]) < 16
    strange = tokenizer("Über zebra 猫").input_ids
    assert tokenizer.unk_token_id not in strange
    assert strange != tokenizer("ber zebra").input_ids  # bytes stand for what the vocabulary lacks


def test_facts_follow_what_the_caption_says() -> None:
    clip = clip_of((1, 2), 0)
    facts = text_encoder._facts(clip, caption_of(clip))
    assert facts[:2] == [clip.place, 1] and facts[3] == clip.turns[0] and facts[9] == clip.clothes[1]
    assert facts[10:] == [-1] * 4


def test_prompts_belong_to_the_person_and_say_what_is_wanted() -> None:
    once, again = measure.prompts_of(800_123, 3), measure.prompts_of(800_123, 3)
    assert once == again and once != measure.prompts_of(800_124, 3)
    for text, wanted in once:
        assert f"{CLOTHES[wanted['shirt']]} shirt" in text
        assert TURNS[wanted["turn"]] not in ("left", "right", "up", "down") or TURNS[wanted["turn"]] in text


def test_intervals_hold_the_mean_and_shrink_with_people() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    mean, low, high = measure.interval(values)
    assert low < mean < high and mean == pytest.approx(values.mean(), abs=1e-4)
    assert high - low < measure.interval(values[:40])[2] - measure.interval(values[:40])[1]


def test_identity_by_hand() -> None:
    """Two people, one video each: person 0 is seen in half the frames, person 1 is taken for person 0 in all."""
    gallery = np.eye(2, dtype=np.float32)
    shown = {1: gallery[0], 2: gallery[0]}
    pack = SimpleNamespace(
        detect=lambda frame: [None] if frame[0, 0, 0] in shown else [],
        embed=lambda frame, face: shown[int(frame[0, 0, 0])],
    )
    half = np.zeros((4, 2, 2, 3), np.uint8)
    half[:2] = 1
    wrong = np.full((4, 2, 2, 3), 2, np.uint8)
    tools: object = SimpleNamespace(pack=pack)
    figures = measure.identity([half, wrong], np.array([0, 1]), gallery, tools)  # type: ignore[arg-type]
    assert figures["similarity to the own photograph"][0] == pytest.approx(0.25)  # (0.5 + 0) / 2
    assert figures["rank-1 among 2"][0] == 0.5 and figures["frames with a face"][0] == 0.75


def test_expressions_count_where_a_prompt_could_ask_for_them() -> None:
    clips = [clip_of(person, 0) for person in range(40)]
    drawn = np.array([clip.expressions[0] for clip in clips])
    even = np.arange(40) % 2 == 0
    probe: object = SimpleNamespace(read=lambda videos: {"expression": np.where(even, drawn, -1)})
    mean, _, _ = measure.expression_read(np.zeros((40, 1)), clips, probe)  # type: ignore[arg-type]
    assert mean == pytest.approx(even[drawn < 4].mean(), abs=1e-4) and not (drawn < 4).all()


def test_a_card_shows_numbers_with_their_intervals() -> None:
    text = card.tables({"steps": 20, "VAE": {"PSNR, dB": [28.0695, 27.7, 28.4], "kept": [0.6131, 0.59, 0.63]}})
    assert "| steps | 20 |" in text
    assert "28.07 [27.70, 28.40]" in text and "0.613 [0.590, 0.630]" in text
