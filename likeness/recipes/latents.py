"""Video latents of a drawn pool, encoded once: `python -m likeness.recipes.latents --pool POOL --vae DIR --output LATENTS`.

Each shard becomes a folder of `.npy` files that training maps into memory: `latents` float16 [P, C, 16, T, h, w] (normalised),
and the pool's `photos`, `faces`, `captions` and `keypoints` as they are; references are noised and encoded online. A folder is made
whole under another name and renamed; a second call encodes only what is missing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from likeness.recipes.vae import to_pixels

_CLIPS_AT_ONCE = 10


def _encode(job: tuple[Path, Path, Path]) -> str:
    torch.set_num_threads(1)
    shard_path, vae_path, folder = job
    if folder.exists():
        return folder.name
    vae: Any = AutoencoderKLWan.from_pretrained(vae_path).eval()
    mean, deviation = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    shard = np.load(shard_path)
    videos = shard["videos"]
    flat = videos.reshape(-1, *videos.shape[2:])
    rows = []
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        for start in range(0, len(flat), _CLIPS_AT_ONCE):
            latents = vae.encode(to_pixels(flat[start : start + _CLIPS_AT_ONCE])).latent_dist.mode().float()
            rows.append(((latents - mean) / deviation).half().numpy())
    temporary = folder.with_name(folder.name + ".tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    np.save(temporary / "latents.npy", np.concatenate(rows).reshape(*videos.shape[:2], *rows[0].shape[1:]))
    for name in ("photos", "faces", "captions", "people", "keypoints"):
        np.save(temporary / f"{name}.npy", shard[name])
    os.rename(temporary, folder)
    return folder.name


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--wait", type=float, default=0, help="minutes to go on looking for new shards")
    arguments = parser.parse_args()
    ends = time.time() + 60 * arguments.wait
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        while True:
            shards = sorted(arguments.pool.glob("people-??????.npz"))
            jobs = [(shard, arguments.vae, arguments.output / shard.stem) for shard in shards]
            for name in pool.imap_unordered(_encode, [job for job in jobs if not job[2].exists()]):
                print(name, flush=True)
            if time.time() > ends:
                return
            time.sleep(10)


if __name__ == "__main__":
    main()
