"""The tiny family's Concat-ID: a Wan transformer trained on drawn pairs, through the same loop and method as any other.

`python -m likeness.recipes.transformer --latents LATENTS --vae DIR --text DIR --output DIR --minutes 60 --processes 4`

Concat-ID's first two stages in one run under one learning-rate decay: pre-training pairs (the reference is a frame of the
clip itself), then cross-video pairs (the reference is a photograph, or a frame of the person's other clip).
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler
from transformers import AutoTokenizer, UMT5EncoderModel

from likeness.backbones.wan import ConcatWanTransformer3DModel, WanBackbone
from likeness.method import CONCAT_ID, Guidance, Method
from likeness.pipeline import LikenessPipeline
from likeness.recipes.vae import to_pixels
from likeness.train.loop import Schedule, train
from likeness.train.objective import Batch
from likeness.train.parallel import run_parallel
from likeness.world import FPS, NUM_FRAMES

# The paper's placement and dropout. Text and reference are guided apart: joint guidance amplifies what the text says of
# a person along with what the photograph shows.
METHOD: Method = replace(
    CONCAT_ID,
    guidance=Guidance(kind="decoupled", text=2.0, reference=4.0),
    max_references=1,
    kinds=("face",),
)
SHIFT = 2.0  # a latent of 5 x 8 x 8 has fewer redundant values than Wan's, so less weight on high noise than Wan's 5
_FACE_MARGIN = 0.35  # of the distance from eyes to mouth, around them
TRANSFORMER = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 4,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 128,
    "freq_dim": 128,
    "ffn_dim": 768,
    "num_layers": 8,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which references a sample may have as the run goes on, and what of it counts.

    Attributes:
        pretraining: share of the run on pre-training pairs (stage I); cross-video pairs (stage II) after it.
        photographs: share of photographs among cross-video references; the rest are frames of the other clip.
        face_weight: of the loss where the face is, which fills a quarter of the latents; 1 elsewhere.
    """

    pretraining: float = 0.3
    photographs: float = 0.75
    face_weight: float = 4.0


class _Data:
    """Random batches of whatever latent shards are there; looks for new ones now and then."""

    def __init__(self, folder: Path, backbone: WanBackbone, size: int, pairs: Pairs, rng: np.random.Generator) -> None:
        self.folder, self.backbone, self.size, self.pairs, self.rng = folder, backbone, size, pairs, rng
        self.shards: list[dict[str, np.ndarray]] = []
        self.calls = 0

    def _scan(self) -> None:
        folders = [f for f in sorted(self.folder.glob("people-*")) if f.suffix != ".tmp"]
        for folder in folders[len(self.shards) :]:
            names = ("latents", "photos", "faces", "captions", "keypoints")
            self.shards.append({name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names})

    def __call__(self, progress: float) -> Batch:
        if self.calls % 200 == 0:
            self._scan()
        self.calls += 1
        rng, latents, keypoints, canvases, captions = self.rng, [], [], [], []
        for _ in range(self.size):
            shard = self.shards[rng.integers(len(self.shards))]
            people, clips = shard["latents"].shape[:2]
            person, clip = rng.integers(people), rng.integers(clips)
            latents.append(shard["latents"][person, clip])
            keypoints.append(shard["keypoints"][person, clip])
            captions.append(str(shard["captions"][person, clip]))
            if progress < self.pairs.pretraining:
                canvases.append(shard["faces"][person, clip, rng.integers(shard["faces"].shape[2])])
            elif rng.random() < self.pairs.photographs:
                canvases.append(shard["photos"][person, rng.integers(shard["photos"].shape[1])])
            else:
                other = (clip + rng.integers(1, clips)) % clips
                canvases.append(shard["faces"][person, other, rng.integers(shard["faces"].shape[2])])
        with torch.no_grad():
            prompt_embeds = self.backbone.encode_text(captions).float()
        video = np.stack(latents)
        weights = face_weights(np.stack(keypoints).astype(np.float32), video.shape[2:], self.pairs.face_weight)
        return Batch(
            torch.from_numpy(video).float(),
            (to_pixels(np.stack(canvases)[:, None]),),
            prompt_embeds,
            masks=torch.from_numpy(weights),
        )


def face_weights(keypoints: np.ndarray, grid: tuple[int, int, int], weight: float) -> np.ndarray:
    """Weights of the loss: `weight` for latents that see a face, 1 elsewhere.

    Args:
        keypoints: five per frame ``[B, F, 5, 2]`` in pixels, F = 4 (T - 1) + 1.
        grid: the latents' (T, h, w), each 8 pixels wide; the first sees one frame, the others four.

    Returns:
        float32 ``[B, 1, T, h, w]``.
    """
    frames, height, width = grid
    low, high = keypoints.min(2), keypoints.max(2)  # [B, F, 2] around eyes and mouth
    margin = (high - low).max(-1, keepdims=True) * _FACE_MARGIN
    low, high = (low - margin) / 8, (high + margin) / 8
    result = np.ones((len(keypoints), 1, frames, height, width), np.float32)
    rows, columns = np.arange(height)[:, None], np.arange(width)[None]
    for t in range(frames):
        seen = slice(0, 1) if t == 0 else slice(4 * t - 3, 4 * t + 1)
        (x0, y0), (x1, y1) = low[:, seen].min(1).T[..., None, None], high[:, seen].max(1).T[..., None, None]
        face = (columns + 1 > x0) & (columns < x1) & (rows + 1 > y0) & (rows < y1)
        result[:, 0, t] = np.where(face, weight, 1.0)
    return result


def load_parts(vae: Path, text: Path) -> dict:
    """The frozen parts of the family, in float32."""
    return {
        "vae": AutoencoderKLWan.from_pretrained(vae).eval().requires_grad_(False),
        "text_encoder": UMT5EncoderModel.from_pretrained(text / "text_encoder", dtype=torch.float32)
        .eval()
        .requires_grad_(False),
        "tokenizer": AutoTokenizer.from_pretrained(text / "tokenizer"),
        "scheduler": FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=SHIFT),
    }


def _work(rank: int, processes: int, arguments: argparse.Namespace) -> None:
    torch.manual_seed(arguments.seed)
    transformer = ConcatWanTransformer3DModel(**TRANSFORMER).train()
    if arguments.start:
        start = ConcatWanTransformer3DModel.from_pretrained(arguments.start, torch_dtype=torch.float32)
        transformer.load_state_dict(start.state_dict())
    transformer.set_attention_backend("_native_math")  # 1.3 times as fast on sequences this short
    if arguments.compile:
        transformer.compile_repeated_blocks()
    backbone = WanBackbone(transformer=transformer, **load_parts(arguments.vae, arguments.text))
    rng = np.random.default_rng(arguments.seed * 1000 + rank)
    data = _Data(
        arguments.latents,
        backbone,
        arguments.batch,
        Pairs(pretraining=arguments.pretraining, face_weight=arguments.face_weight),
        rng,
    )
    empty = backbone.encode_text([""]).float()
    schedule = Schedule(
        minutes=arguments.minutes, seed=arguments.seed, rate=arguments.rate, plain_rate=arguments.rate / 2
    )
    train(backbone, METHOD, data, empty, schedule, arguments.output)


def export(state: Path, vae: Path, text: Path, folder: Path, method: Method = METHOD) -> None:
    """Write the averaged weights of a run as a Likeness folder: bfloat16, but for what Wan keeps in float32."""
    transformer = ConcatWanTransformer3DModel(**TRANSFORMER).eval()
    transformer.load_state_dict(torch.load(state, weights_only=True)["average"]["state"])
    pipeline = LikenessPipeline(
        transformer=transformer,
        **load_parts(vae, text),
        method=method,
        default_num_frames=NUM_FRAMES,
        default_height=64,
        default_width=64,
        default_fps=int(FPS),
        default_num_inference_steps=20,
    )
    shutil.rmtree(folder, ignore_errors=True)
    for part in (pipeline.vae, pipeline.text_encoder):
        part.to(torch.bfloat16)
    for name, parameter in transformer.named_parameters():
        if not any(kept in name for kept in ConcatWanTransformer3DModel._keep_in_fp32_modules):
            parameter.data = parameter.data.to(torch.bfloat16)
    pipeline.save_pretrained(folder)
    for file in folder.glob("*/config.json"):  # where a part was loaded from is nobody's business
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for name in ("latents", "vae", "text", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--export", type=Path, help="folder for the finished model")
    parser.add_argument("--start", type=Path, help="folder of a transformer to go on from, such as tiny/transformer")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--batch", type=int, default=24, help="samples a process and step")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--pretraining", type=float, default=Pairs.pretraining)
    parser.add_argument("--face-weight", type=float, default=Pairs.face_weight, help="of the loss where the face is")
    parser.add_argument("--compile", action="store_true", help="1.5 times as fast; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    run_parallel(_work, arguments.processes, arguments)
    if arguments.export:
        export(arguments.output / "state.pt", arguments.vae, arguments.text, arguments.export)


if __name__ == "__main__":
    main()
