"""The tiny family's video VAE: diffusers' AutoencoderKLWan, 8x in space, 4x in time, 16 channels.

`python -m likeness.recipes.vae --pool POOL --output DIR --minutes 40 --processes 2` trains it on a drawn pool. As in Wan 2.2 the
pixels are folded 2 x 2 into channels first, which spares the costliest convolutions. The loss is L1, several times as heavy
around the face, plus L1 of the picture's gradients and a KL term; references (single pictures) are coded beside the clips.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from likeness.train.optimiser import MovingAverage, Optimiser
from likeness.train.parallel import agreed, average_gradients, run_parallel
from likeness.world import NUM_FRAMES

Z_DIM = 16
CONFIG = {
    "base_dim": 32,
    "decoder_base_dim": 32,
    "z_dim": Z_DIM,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
    "latents_mean": [0.0] * Z_DIM,
    "latents_std": [1.0] * Z_DIM,
}
GRADIENT_WEIGHT, KL_WEIGHT = 0.5, 5e-4
CROP = 32  # px: a face and a little about it, at less than a third of a whole frame's cost
_FACE_SHARPNESS, _DETAIL_SHARPNESS = 1.5, 12.0  # half of the weight at 0.68 and at 0.24 of the keypoints' spread


def to_pixels(frames: np.ndarray) -> torch.Tensor:
    """uint8 [B, F, H, W, 3] -> float32 [B, 3, F, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0)


def face_weights(keypoints: np.ndarray, size: int, weight: float, detail: float = 0.0) -> torch.Tensor:
    """Where errors count more: about the face, and once more about its eyes and its mouth, which tell people and expressions apart and
    fill a few pixels.

    Args:
        keypoints: ``[B, F, 5, 2]`` px: eyes, nose, corners of the mouth.
        size: px of the square frames.
        weight: beside 1, under a Gaussian about the keypoints' middle.
        detail: beside both, under narrow Gaussians about each eye and the mouth.

    Returns:
        ``float32 [B, 1, F, size, size]``.
    """
    points = torch.from_numpy(keypoints.astype(np.float32))
    spread = (points.amax(2) - points.amin(2)).amax(-1)[..., None, None]  # [B, F, 1, 1]
    at = torch.arange(size) + 0.5

    def about(middle: torch.Tensor, sharpness: float) -> torch.Tensor:
        """[B, F, 2] -> [B, F, size, size]"""
        dx, dy = ((at - middle[..., axis, None]) for axis in (0, 1))
        return torch.exp(-(dy[..., :, None].square() + dx[..., None, :].square()) / spread.square() * sharpness)

    result = 1 + weight * about(points.mean(2), _FACE_SHARPNESS)
    if detail:
        middles = (points[:, :, 0], points[:, :, 1], points[:, :, 3:].mean(2))
        result = result + detail * torch.stack([about(middle, _DETAIL_SHARPNESS) for middle in middles]).amax(0)
    return result.unsqueeze(1)


def reconstruction_loss(predicted: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted L1 of pixels and of their horizontal and vertical differences."""
    error = predicted.float() - target
    weights = weights.expand(error.shape)
    loss = (error.abs() * weights).mean()
    for axis in (-1, -2):
        loss = (
            loss
            + GRADIENT_WEIGHT * (error.diff(dim=axis).abs() * weights.narrow(axis, 1, weights.shape[axis] - 1)).mean()
        )
    return loss


class _Batches:
    """Random windows of clips with face weights, and reference canvases, from whatever shards are there."""

    def __init__(self, rng: np.random.Generator, arguments: argparse.Namespace) -> None:
        self.rng, self.pool = rng, arguments.pool
        self.face_weight, self.detail_weight = arguments.face_weight, arguments.detail_weight
        self.clips, self.frames, self.crops = arguments.clips, arguments.frames, arguments.crops
        # No transformer makes references, so a decoder that is trained alone need not show them.
        self.canvases = 0 if arguments.decoder_only else arguments.canvases
        self.used = self.refill_after = 0

    def _refill(self) -> None:
        shards = sorted(self.pool.glob("people-??????.npz"))
        shard = np.load(shards[self.rng.integers(len(shards))])
        self.videos = shard["videos"].reshape(-1, *shard["videos"].shape[2:])
        self.keypoints = shard["keypoints"].reshape(-1, *shard["keypoints"].shape[2:])
        self.pictures = np.concatenate([shard["photos"].reshape(-1, 64, 64, 3), shard["faces"].reshape(-1, 64, 64, 3)])
        self.used, self.refill_after = 0, len(self.videos) // 3  # move on before a shard is worn out

    def next(self) -> list[tuple[torch.Tensor, torch.Tensor, float]]:
        """Pixels, weights of errors and share in the loss: of whole clips, of windows about faces, and of pictures."""
        if self.used >= self.refill_after:
            self._refill()
        self.used += self.clips + self.crops
        parts = [self._clips(self.clips, None)]
        if self.crops:
            parts.append(self._clips(self.crops, CROP))
        if self.canvases:
            pictures = self.pictures[self.rng.integers(len(self.pictures), size=self.canvases)]
            parts.append((to_pixels(pictures[:, None]), torch.full((1, 1, 1, 1, 1), 1.5), 0.35))
        return parts

    def _clips(self, count: int, crop: int | None) -> tuple[torch.Tensor, torch.Tensor, float]:
        which = self.rng.integers(len(self.videos), size=count)
        start = int(self.rng.integers(self.videos.shape[1] - self.frames + 1))
        window = slice(start, start + self.frames)
        videos, keypoints = self.videos[which, window], self.keypoints[which, window]
        if crop is not None:
            middles = keypoints.mean((1, 2)) + self.rng.uniform(-crop / 8, crop / 8, (count, 2))
            corners = np.clip(np.round(middles - crop / 2), 0, videos.shape[2] - crop).astype(int)
            videos = np.stack([v[:, y : y + crop, x : x + crop] for v, (x, y) in zip(videos, corners, strict=True)])
            keypoints = keypoints - corners[:, None, None]
        weights = face_weights(keypoints, videos.shape[2], self.face_weight, self.detail_weight)
        return to_pixels(videos), weights, 1.0


def _train(rank: int, processes: int, arguments: argparse.Namespace) -> None:
    pool, output, minutes, seed = arguments.pool, arguments.output, arguments.minutes, arguments.seed
    torch.manual_seed(seed)
    vae: Any = AutoencoderKLWan(**CONFIG).train()
    if arguments.start:
        vae.load_state_dict(AutoencoderKLWan.from_pretrained(arguments.start).state_dict())
    if arguments.decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    # The shortcuts of the residual blocks start as averaging and copying; fresh convolutions should not drown them.
    optimiser, average = Optimiser(vae, rate=arguments.rate, warmup=0.02), MovingAverage(vae, 0.998)
    batches = _Batches(np.random.default_rng(seed * 1000 + rank), arguments)
    torch.manual_seed(seed * 1000 + rank)
    started, step, log = time.time(), 0, []
    while (progress := agreed((time.time() - started) / (60 * minutes))) < 1:
        total, psnr = 0.0, []
        for target, weight, share in batches.next():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                posterior = vae.encode(target).latent_dist
                decoded = vae.decode(posterior.sample()).sample
            mean, variance = posterior.mean.float(), posterior.var.float()
            kl = 0.5 * (mean.square() + variance - 1 - variance.clamp(min=1e-8).log()).mean()
            loss = share * (reconstruction_loss(decoded, target, weight) + KL_WEIGHT * kl)
            loss.backward()
            total += float(loss.detach())
            psnr.append(-10 * torch.log10((decoded.detach().float() - target).square().mean() / 4))
        average_gradients(vae.parameters())
        optimiser.step(progress)
        average.update(vae)
        step += 1
        if rank == 0 and step % 50 == 0:
            log.append(
                {
                    "step": step,
                    "minutes": round((time.time() - started) / 60, 2),
                    "loss": round(total, 4),
                    "kl": round(float(kl.detach()), 3),
                    "video_psnr": round(float(psnr[0]), 2),
                    "picture_psnr": round(float(psnr[-1]), 2),
                }
            )
            print(json.dumps(log[-1]), flush=True)
            if step % 300 == 0:
                _save(vae, average, pool, output, log)
    if rank == 0:
        _save(vae, average, pool, output, log)


@torch.no_grad()
def _save(vae: AutoencoderKLWan, average: MovingAverage, pool: Path, output: Path, log: list[dict]) -> None:
    """Write the averaged weights with the latents' mean and deviation a channel, so that normalised latents have unit variance."""
    kept: Any = AutoencoderKLWan(**CONFIG).eval()
    average.copy_to(kept)
    shard = np.load(sorted(pool.glob("people-??????.npz"))[0])
    latents = torch.cat([kept.encode(to_pixels(shard["videos"][i, :1])).latent_dist.mode() for i in range(40)])
    kept.register_to_config(
        latents_mean=[round(v, 5) for v in latents.mean((0, 2, 3, 4)).tolist()],
        latents_std=[round(v, 5) for v in latents.std((0, 2, 3, 4)).tolist()],
    )
    temporary = output.with_name(output.name + ".tmp")
    kept.to(torch.bfloat16).save_pretrained(temporary)
    (temporary / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log))
    for file in temporary.iterdir():
        output.mkdir(parents=True, exist_ok=True)
        os.replace(file, output / file.name)


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--start", type=Path, help="folder of a VAE to go on from")
    parser.add_argument(
        "--decoder-only", action="store_true", help="keep the latents as they are, for a trained transformer"
    )
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--face-weight", type=float, default=3.0, help="how much more the face counts than the rest")
    parser.add_argument("--detail-weight", type=float, default=0.0, help="how much more still its eyes and mouth count")
    parser.add_argument("--clips", type=int, default=3, help="clips a process and step")
    parser.add_argument(
        "--frames",
        type=int,
        default=NUM_FRAMES,
        help="frames of a training clip; a VAE trained on fewer fails after them",
    )
    parser.add_argument("--crops", type=int, default=0, help=f"windows of {CROP} px about faces a process and step")
    parser.add_argument("--canvases", type=int, default=4, help="reference canvases a process and step")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run_parallel(_train, arguments.processes, arguments)


if __name__ == "__main__":
    main()
