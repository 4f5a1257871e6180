"""Reads off a drawn video what its prompt asked for: place, turn of the head, expression, shirt, and the pose per frame.

The probe was trained on the truth of drawn clips. It is an instrument of measurement alone: nothing is trained on it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from likeness.errors import CheckpointError
from likeness.world.clip import CLOTHES, EXPRESSIONS, PLACES, TURNS

if TYPE_CHECKING:
    from collections.abc import Sequence

WEIGHTS_FILE, CONFIG_FILE = "probe.safetensors", "config.json"
FRAME_PX = 64
NUM_FRAMES = 6  # of two seconds: enough to tell a nod from a look down

VOCABULARIES: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "turn": TURNS,
    "expression": EXPRESSIONS,
    "shirt": CLOTHES,
    "gender": ("man", "woman"),
}


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Widths of the network, and the words of each answer in the order of its outputs."""

    widths: tuple[int, ...] = (32, 48, 64, 96)
    features: int = 96
    answers: tuple[tuple[str, tuple[str, ...]], ...] = tuple(VOCABULARIES.items())


class ProbeNetwork(nn.Module):
    """A small convolutional network for each frame, and one linear look at all frames together for each answer."""

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        inputs = 12
        for stage, width in enumerate(config.widths):
            layers += _convolution(inputs, width, stride=2 if stage else 1)
            layers += _convolution(width, width, stride=1) if stage in (1, 2) else []
            inputs = width
        side = FRAME_PX // 2 // 2 ** (len(config.widths) - 1)
        layers += [nn.Conv2d(inputs, 32, 1), nn.Flatten(), nn.Linear(32 * side * side, config.features)]
        self.frame = nn.Sequential(*layers)
        self.pose = nn.Linear(config.features, 3)
        self.time = nn.Sequential(nn.ReLU(), nn.Linear(NUM_FRAMES * config.features, 128), nn.ReLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(words)) for name, words in config.answers})

    def forward(self, pixels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """pixels [B, 6, 3, 64, 64] in [-1, 1] -> logits [B, words] of each answer, and yaw, pitch, roll [B, 6, 3] in radians."""
        batch = len(pixels)
        features = self.frame(pixels.flatten(0, 1)).view(batch, NUM_FRAMES, -1)
        together = self.time(features.flatten(1))
        return {name: head(together) for name, head in self.heads.items()}, self.pose(features)


def _convolution(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


@dataclass(frozen=True)
class Probe:
    """A trained probe."""

    network: ProbeNetwork

    @torch.inference_mode()
    def read(self, frames: np.ndarray, *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """What B videos show.

        Args:
            frames: uint8 [B, F, H, W, 3] RGB, one person each, two seconds or so; six frames evenly spread are read.

        Returns:
            int64 [B] for each name of VOCABULARIES, an index of its words; "pose" float32 [B, 6, 3]: yaw, pitch and
            roll in radians (as in likeness.world.clip) in those frames.

        Raises:
            ValueError: frames of another type or shape.
        """
        if frames.dtype != np.uint8 or frames.ndim != 5 or frames.shape[-1] != 3 or 0 in frames.shape:
            raise ValueError(f"the probe reads uint8 [B, F, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        chosen = np.rint(np.linspace(0, frames.shape[1] - 1, NUM_FRAMES)).astype(int)
        answers: dict[str, list[Tensor]] = {}
        for start in range(0, len(frames), batch_size):
            part = frames[start : start + batch_size][:, chosen]
            logits, pose = self.network(prepare(torch.from_numpy(part)))
            for name, values in logits.items():
                answers.setdefault(name, []).append(values.argmax(1))
            answers.setdefault("pose", []).append(pose)
        return {name: torch.cat(parts).numpy() for name, parts in answers.items()}


def prepare(frames: Tensor) -> Tensor:
    """frames uint8 [B, F, H, W, 3] -> float32 [B, F, 3, 64, 64] in [-1, 1]; other sizes are resized."""
    batch, num_frames, height, width, _ = frames.shape
    pixels = frames.permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    if (height, width) != (FRAME_PX, FRAME_PX):
        pixels = F.interpolate(pixels.flatten(0, 1), (FRAME_PX, FRAME_PX), mode="bilinear", antialias=True)
    return pixels.reshape(batch, num_frames, 3, FRAME_PX, FRAME_PX)


def save_probe(network: ProbeNetwork, folder: Path) -> None:
    """Writes the weights, in half precision, and the configuration."""
    from safetensors.torch import save

    from likeness.media import atomic_write

    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    with atomic_write(folder / WEIGHTS_FILE) as temporary:
        temporary.write_bytes(save({name: value.contiguous() for name, value in state.items()}))
    with atomic_write(folder / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps(asdict(network.config), indent=2) + "\n")


def load_probe(folder: str | Path) -> Probe:
    """The probe in a folder.

    Raises:
        CheckpointError: a file is missing or damaged, or the probe knows other words than the drawn world has.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (WEIGHTS_FILE, CONFIG_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"the probe in {folder} has no {name}; copy the whole folder again")
    try:
        raw = json.loads((folder / CONFIG_FILE).read_text())
        config = ProbeConfig(widths=tuple(raw["widths"]), features=raw["features"], answers=_answers(raw["answers"]))
        network = ProbeNetwork(config)
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the probe in {folder} cannot be loaded: {error}; copy it again") from error
    for name, words in VOCABULARIES.items():
        if dict(config.answers).get(name) != words:
            raise CheckpointError(
                f"the probe in {folder} was trained on other words for {name} than {', '.join(words)}"
            )
    return Probe(network.eval())


def _answers(raw: Sequence[Sequence]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple((name, tuple(words)) for name, words in raw)
