"""CLIP-Score under both protocols, against transformers' own logits and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from painted_faces import BLUE, GREEN, RED, one, sample
from tiny_clip import write_clip

from likeness.evaluate.frames import clip_score as grid
from likeness.evaluate.text import ClipScore, FrameClip, clip_score, clip_score_corrected, frame_clip
from likeness.evaluate.types import BackendAbsent, Backends


class ColourClip:
    """Sees the colour of the middle of a picture; a prompt is the name of a colour."""

    tokenizer, weights, official = object(), "colour", "ViT-B/32"

    def __init__(self) -> None:
        self.pictures_seen = 0

    def images(self, pictures) -> np.ndarray:
        self.pictures_seen += len(pictures)
        middles = np.array([picture[40, 40] for picture in pictures], np.float32).reshape(-1, 3) - 100
        return middles / np.linalg.norm(middles, axis=1, keepdims=True)

    def texts(self, prompts) -> np.ndarray:
        return np.stack([np.eye(3, dtype=np.float32)[["red", "green", "blue"].index(prompt)] for prompt in prompts])


def score(protocol, colours: list, prompt: str):
    metric = ClipScore("clip_score", protocol, "", FrameClip(ColourClip()))  # type: ignore[arg-type]
    return metric.measure(sample([one(colour) for colour in colours], [], prompt=prompt))


def test_known_answers() -> None:
    half = [RED] * 8 + [GREEN] * 8
    assert score("corrected", half, "red").values["clip_score"] == pytest.approx(50)
    assert score("corrected", half, "blue").values["clip_score"] == pytest.approx(0)
    # The published script exchanges red and blue: a red video is taken for a blue one.
    assert score("consisid-bgr", [RED] * 16, "blue").values["clip_score"] == pytest.approx(100)
    assert score("consisid-bgr", [BLUE] * 16, "red").values["clip_score"] == pytest.approx(100)
    assert score("corrected", [RED, BLUE], "red").curves["clip_score"] == pytest.approx([100] * 8 + [0] * 8)


def test_a_row_without_a_prompt() -> None:
    result = score("corrected", [RED], " ")
    assert result.values == {"clip_score": None} and "no prompt" in result.reason and result.status == "ok"


def test_frames_are_embedded_once_for_all_metrics() -> None:
    clip = ColourClip()
    shared = FrameClip(clip)  # type: ignore[arg-type]
    given = sample([one(RED)] * 5, [], prompt="red")
    for _ in range(2):
        ClipScore("clip_score_corrected", "corrected", "", shared).measure(given)
    assert clip.pictures_seen == 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


@pytest.mark.parametrize("order", [1, -1], ids=["corrected", "consisid-bgr"])
def test_it_equals_transformers_own_logits(folder: Path, order: int) -> None:
    import torch
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    rng = np.random.default_rng(0)
    video = list(rng.integers(0, 255, (7, 40, 56, 3), dtype=np.uint8))
    prompt = "a man " * 60  # more than 77 tokens
    metric = (clip_score_corrected if order == 1 else clip_score)(Backends(clip=str(folder)))
    ours = metric.measure(sample(video, [], prompt=prompt))

    model = CLIPModel.from_pretrained(folder).eval()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(
        [np.ascontiguousarray(video[index][..., ::order]) for index in grid(7)],
        return_tensors="pt",
        input_data_format="channels_last",
    )
    tokens = CLIPTokenizer.from_pretrained(folder)([prompt], truncation=True, return_tensors="pt", max_length=77)
    assert tokens["input_ids"].shape == (1, 77)
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image[:, 0] / model.logit_scale.exp()
    assert ours.values["clip_score"] == pytest.approx(100 * float(logits.mean()), abs=1e-4)
    assert ours.curves["clip_score"] == pytest.approx((100 * logits).tolist(), abs=1e-4)


def test_backends_are_asked_for_by_name(folder: Path) -> None:
    with pytest.raises(BackendAbsent, match="--clip"):
        clip_score(Backends())
    assert frame_clip(Backends(clip=str(folder))) is frame_clip(Backends(clip=str(folder)))
    two = clip_score(Backends(clip=str(folder))), clip_score_corrected(Backends(clip=str(folder)))
    assert [(metric.name, metric.protocol) for metric in two] == [
        ("clip_score", "consisid-bgr-unverified"),  # not OpenAI's weights
        ("clip_score_corrected", "corrected"),
    ]
    assert ClipScore("clip_score", "consisid-bgr", "", FrameClip(ColourClip())).protocol == "consisid-bgr"  # type: ignore[arg-type]
    assert two[0].weights == two[1].weights and len(two[0].weights) == 16


def test_the_order_does_not_matter(folder: Path) -> None:
    metric = clip_score_corrected(Backends(clip=str(folder)))
    rng = np.random.default_rng(1)

    def fresh() -> list:
        return [
            sample(list(np.random.default_rng(n).integers(0, 255, (5, 32, 32, 3), dtype=np.uint8)), [], prompt="a man")
            for n in range(3)
        ]

    together = [metric.measure(video).values for video in fresh()]
    order = rng.permutation(3)
    apart = {int(n): metric.measure(fresh()[n]).values for n in order}
    assert [apart[n] for n in range(3)] == together
