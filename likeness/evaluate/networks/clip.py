"""CLIP from transformers: pictures and prompts to unit vectors of one space.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (ICML 2021). The prompt is cut at
77 tokens; pictures are scaled and cropped in Pillow with averaging, as CLIPProcessor did when the scores were published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
from transformers.utils import logging

from likeness.errors import CheckpointError
from likeness.evaluate.weights import HASH_DIGITS, joined_hash
from likeness.media import sha256_file

_FILES = ["*.json", "*.txt", "*.safetensors", "pytorch_model.bin"]
_BATCH = 32
_NO_TOKENIZER = "{} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); fetch it too."

# SHA-256 of the files in OpenAI's repositories on the Hub.
_PUBLISHED = {
    "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f": "ViT-B/32",  # pytorch_model.bin
    "f1a17cdbe0f36fec524f5cafb1c261ea3bbbc13e346e0f74fc9eb0460dedd0d3": "ViT-L/14",  # pytorch_model.bin
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb": "ViT-L/14",  # model.safetensors
}


@dataclass(frozen=True, eq=False)
class Clip:
    """Both towers of CLIP, in float32.

    Attributes:
        model: a CLIPModel in evaluation mode.
        processor: scales, crops and normalises pictures.
        tokenizer: a CLIPTokenizer, or None for a folder without its files; then prompts cannot be embedded.
        weights: 16 hex digits of the SHA-256 of the weights.
        official: name of OpenAI's model whose published bytes these are, such as "ViT-B/32"; "" for any others.
        device: where it runs.
    """

    model: Any
    processor: Any
    tokenizer: Any
    weights: str
    official: str
    device: str = "cpu"

    @classmethod
    def load(cls, source: str | Path, device: str = "cpu") -> Clip:
        """Open a folder in transformers' layout, or a repository of the Hugging Face Hub such as openai/clip-vit-base-patch32.

        Raises:
            UserError: a repository that cannot be fetched.
            CheckpointError: a folder of another model, without weights, or with a tensor that is missing, extra or of
                another shape.
        """
        folder = _folder(source)
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model.bin"))
        if not (folder / "config.json").is_file() or not files:
            raise CheckpointError(
                f"{folder} is not a folder of CLIP in transformers' layout: it has no config.json, or no weights beside it "
                "(model.safetensors, pytorch_model.bin). Give such a folder, or openai/clip-vit-base-patch32."
            )
        model = _load_model(folder).to(device).eval().requires_grad_(False)
        size = model.config.vision_config.image_size
        if (folder / "preprocessor_config.json").is_file():
            processor = CLIPImageProcessorPil.from_pretrained(folder)
        else:
            processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
        tokenizer = _tokenizer(folder)
        digests = [sha256_file(file) for file in files]
        weights = joined_hash([digest[:HASH_DIGITS] for digest in digests])
        return cls(model, processor, tokenizer, weights, _PUBLISHED.get(digests[0], ""), device)

    @property
    def image_size(self) -> int:
        """Side in px of the square that the vision tower reads."""
        return self.model.config.vision_config.image_size

    def images(self, pictures: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Embeddings of pictures, ``uint8 [H, W, 3]`` each, RGB (or BGR, where a published score had them so).

        Returns:
            ``float32 [N, D]``, L2 norm 1; N may be 0.
        """
        parts = [np.zeros((0, self.model.config.projection_dim), np.float32)]
        for start in range(0, len(pictures), _BATCH):
            batch = list(pictures[start : start + _BATCH])
            pixels = self.processor(batch, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
            parts.append(functional.normalize(self.features(pixels), dim=1).numpy())
        return np.concatenate(parts)

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """Embeddings of prompts; what is longer than the text tower reads (77 tokens) is cut.

        Returns:
            ``float32 [M, D]``, L2 norm 1; M may be 0.

        Raises:
            CheckpointError: the folder has no tokenizer.
        """
        if self.tokenizer is None:
            raise CheckpointError(
                "This CLIP has no tokenizer (tokenizer.json, or vocab.json and merges.txt); fetch it too."
            )
        parts = [np.zeros((0, self.model.config.projection_dim), np.float32)]
        longest = self.model.config.text_config.max_position_embeddings
        for start in range(0, len(prompts), _BATCH):
            tokens = self.tokenizer(
                list(prompts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                # transformers 5 returns an object; the projected vector is its pooler_output.
                output: Any = self.model.get_text_features(**tokens)
            parts.append(functional.normalize(output.pooler_output.cpu(), dim=1).numpy())
        return np.concatenate(parts)

    @torch.inference_mode()
    def features(self, pixels: Tensor) -> Tensor:
        """Image features before normalisation ``[N, D]`` on the CPU, of pixels ``[N, 3, S, S]`` that are ready for the tower."""
        output: Any = self.model.get_image_features(pixel_values=pixels.to(self.device))  # an object, as above
        return output.pooler_output.cpu()


def load_tokenizer(source: str | Path) -> Any:
    """The CLIPTokenizer of a folder or a repository, as :meth:`Clip.load` takes them, without the weights.

    Raises:
        UserError: a repository that cannot be fetched.
        CheckpointError: there is no tokenizer.
    """
    tokenizer = _tokenizer(_folder(source))
    if tokenizer is None:
        raise CheckpointError(_NO_TOKENIZER.format(source))
    return tokenizer


def _tokenizer(folder: Path) -> Any:
    has_files = (folder / "tokenizer.json").is_file() or (folder / "merges.txt").is_file()
    return CLIPTokenizer.from_pretrained(folder) if has_files else None


def _folder(source: str | Path) -> Path:
    folder = Path(source)
    if folder.exists() or len(Path(source).parts) != 2 or Path(source).is_absolute():
        return folder
    from likeness.backbones.hub import fetch

    return fetch(str(source), _FILES, "give the folder that it is in")


def _load_model(folder: Path) -> Any:
    """As from_pretrained, which fills what is missing with random numbers and says so in passing."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded: Any = CLIPModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are told below, by name
            output_loading_info=True,
        )
    except Exception as error:  # of the parser of the settings, of safetensors, of torch
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{folder} does not hold a CLIP that can be opened: {lines[0]}. Fetch it again."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
    model, report = loaded
    for words, key in (("has no tensor", "missing_keys"), ("has a tensor too many:", "unexpected_keys")):
        if names := sorted(report[key]):
            raise CheckpointError(f"{folder} {words} {', '.join(names[:3])}: it is not a whole CLIP (both towers).")
    if sizes := sorted(report["mismatched_keys"]):
        raise CheckpointError(f"{folder}: {sizes[0][0]} is not of the shape that its config.json says.")
    return model
