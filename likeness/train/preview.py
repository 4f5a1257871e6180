"""Videos made during training: what the weights that would be kept do with a few pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from likeness.errors import UserError
from likeness.faces import canvas_from_crop
from likeness.media import read_picture, write_picture, write_video
from likeness.sheet import contact_sheet
from likeness.train.config import TrainConfig
from likeness.train.pairs import Pair, read_pairs
from likeness.train.parts import Parts
from likeness.types import Video


class Previewer:
    """Makes ``previews/step-00000500/0.mp4`` and ``0.png``, a contact sheet, for each previewed pair.

    Args:
        config: its ``previews`` say when and of which pairs.
        output: folder of the run.
        parts: of the run.
        is_main: whether this process writes. All of them generate: sharded weights need every process.
    """

    def __init__(self, config: TrainConfig, output: Path, parts: Parts, *, is_main: bool) -> None:
        self._config, self._folder, self._parts, self._is_main = config, output / "previews", parts, is_main
        self._pairs: list[Pair] = []
        if config.previews.every:
            sources = config.previews.pairs or config.data.pairs
            self._pairs = read_pairs([Path(item) for item in sources])[: config.previews.count]
            if not self._pairs:
                raise UserError("There are no pairs to preview; set previews.every=0 or name pairs in previews.pairs.")

    def is_due(self, step: int) -> bool:
        """Whether previews follow after this update."""
        every = self._config.previews.every
        return bool(every) and (step % every == 0 or step == self._config.steps)

    def make(self, step: int) -> None:
        """Generate and write the previews of a step; the same noise at every step, so that they can be compared."""
        parts, config = self._parts, self._config
        num_frames, height, width = parts.size
        folder = self._folder / f"step-{step:08d}"
        transformer = parts.pipeline.transformer
        transformer.eval()
        for index, pair in enumerate(self._pairs):
            canvases = [canvas_from_crop(read_picture(path), height, width) for path in pair.references]
            with torch.autocast(transformer.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                frames = parts.pipeline(
                    pair.caption,
                    canvases,
                    height=height,
                    width=width,
                    num_frames=num_frames,
                    fps=parts.fps,
                    num_inference_steps=config.previews.num_inference_steps,
                    generator=torch.Generator().manual_seed(config.seed + index),
                ).frames[0]
            if self._is_main:
                video = Video((np.asarray(frames) * 255).round().astype(np.uint8), parts.fps)
                folder.mkdir(parents=True, exist_ok=True)
                write_video(folder / f"{index}.mp4", video)
                write_picture(folder / f"{index}.png", contact_sheet(video, canvases, title=pair.caption))
        transformer.train()
