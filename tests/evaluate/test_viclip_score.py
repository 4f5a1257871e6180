"""ViCLIP: the official file's layout and size, and its score."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted_faces import sample
from tiny_clip import write_clip

from likeness.errors import CheckpointError
from likeness.evaluate import quality
from likeness.evaluate.networks import viclip as viclip_module
from likeness.evaluate.networks.clip import load_tokenizer
from likeness.evaluate.networks.viclip import ViclipNetwork
from likeness.evaluate.quality import ViclipScore
from likeness.evaluate.types import BackendAbsent, Backends


def published_names() -> set[str]:
    """Names of the tensors in ViClip-InternVid-10M-FLT.pth."""
    names = {"temp"}
    layers = []
    for tower, count in (("vision_encoder", 24), ("text_encoder", 12)):
        for block in (f"{tower}.transformer.resblocks.{index}" for index in range(count)):
            layers += [f"{block}.{part}" for part in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")]
            names |= {f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias"}
        names.add(f"{tower}.positional_embedding")
    layers += ["vision_encoder.ln_pre", "vision_encoder.ln_post", "text_encoder.ln_final"]
    names |= {f"vision_encoder.{name}" for name in ("conv1.weight", "class_embedding", "proj")}
    names |= {"vision_encoder.temporal_positional_embedding"}
    names |= {"text_encoder.token_embedding.weight", "text_encoder.text_projection"}
    return names | {f"{name}.{part}" for name in layers for part in ("weight", "bias")}


def test_full_size_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        state = ViclipNetwork().state_dict()
    assert set(state) == published_names()
    shapes = {
        "vision_encoder.conv1.weight": (1024, 3, 1, 14, 14),
        "vision_encoder.positional_embedding": (257, 1024),
        "vision_encoder.temporal_positional_embedding": (1, 8, 1024),
        "vision_encoder.proj": (1024, 768),
        "text_encoder.token_embedding.weight": (49408, 768),
        "text_encoder.positional_embedding": (32, 768),
        "text_encoder.text_projection": (768, 768),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    # The published file has 1,710,545,812 bytes: these numbers in float32, and some 80 kB of names.
    assert sum(value.numel() for value in state.values()) == 427_616_513 - 45 * 768 + 8 * 1024


class KnownViclip:
    """The grey of the first px of each frame, and a prompt that points along the third frame."""

    def video(self, pixels: torch.Tensor) -> np.ndarray:
        assert pixels.shape == (8, 3, 224, 224)
        greys = (pixels[:, 0, 0, 0] * 0.26862954 + 0.48145466).numpy() * 255
        return greys / np.linalg.norm(greys)

    def text(self, prompt: str) -> np.ndarray:
        return np.eye(8, dtype=np.float32)[2]


def test_score_is_the_cosine_of_the_prompt_and_the_middles_of_eight_intervals() -> None:
    video = sample([np.full((40, 60, 3), index, np.uint8) for index in range(16)], [])
    metric = ViclipScore(KnownViclip(), "", "vbench")  # type: ignore[arg-type]
    assert metric.indices(16, 8.0).tolist() == list(range(0, 16, 2))
    prompted = replace(video, item=replace(video.item, prompt="a man smiles"))
    expected = 4 / np.linalg.norm(range(0, 16, 2))
    assert metric.measure(prompted).values["viclip"] == pytest.approx(expected, abs=1e-6)
    silent = metric.measure(replace(video, item=replace(video.item, prompt=" ")))
    assert silent.values == {"viclip": None} and silent.reason == "the row has no prompt"


def test_score_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    folder = write_clip(tmp_path / "clip")
    vocabulary = len(load_tokenizer(folder))

    def small(words: int = vocabulary) -> ViclipNetwork:
        network = ViclipNetwork((8, 1), (8, 1), patch=112, vocabulary=words, longest=6, out=4)
        for value in network.parameters():
            torch.nn.init.normal_(value) if not value.is_meta else None
        return network

    torch.save({"model": small().state_dict()}, tmp_path / "ViClip-InternVid-10M-FLT.pth")
    backends = Backends(clip=str(folder), viclip=tmp_path / "ViClip-InternVid-10M-FLT.pth")
    monkeypatch.setattr(viclip_module, "ViclipNetwork", small)
    metric = quality.viclip(backends)
    assert metric.protocol == "vbench-unverified" and len(metric.weights) == 16
    frames = list(np.random.default_rng(0).integers(0, 256, (9, 40, 30, 3), dtype=np.uint8))
    video = sample(frames, [])
    prompted = [replace(video, item=replace(video.item, prompt=text)) for text in ("a man", "red " * 4, "red " * 40)]
    short, long, longer = (metric.measure(given).values["viclip"] for given in prompted)
    assert short is not None and -1 <= short <= 1 and short != long
    assert long == longer  # what is beyond the last token is cut
    with pytest.raises(BackendAbsent, match="give --clip PATH"):
        quality.viclip(Backends(viclip=backends.viclip))
    torch.save(small(vocabulary + 1).state_dict(), tmp_path / "other.pth")
    monkeypatch.setattr(viclip_module, "ViclipNetwork", lambda: small(vocabulary + 1))
    with pytest.raises(CheckpointError, match=rf"knows {vocabulary + 1} tokens, the tokenizer .* {vocabulary}"):
        quality.viclip(Backends(clip=str(folder), viclip=tmp_path / "other.pth"))
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        quality.viclip(backends)
