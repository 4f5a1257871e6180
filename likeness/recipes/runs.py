"""Training runs of recipes: what they start from (drawn pairs, an untrained model, a store of latents), and their processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import AutoTokenizer, UMT5EncoderModel

from likeness.backbones.load import resolve_model
from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.pipeline import LikenessPipeline
from likeness.recipes.training import TINY_CONCAT_ID
from likeness.train.config import TrainConfig

# Of the tiny family's transformers: Wan's class, 8 M parameters.
TRANSFORMER: dict[str, Any] = {
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


@dataclass(frozen=True)
class Material:
    """Where runs find what they train on, in a folder of theirs or elsewhere.

    Attributes:
        pairs: folder of ``likeness.recipes.pairs``, of one person a clip; pairs_two: of two.
        base: model folder with an untrained transformer.
        store: folder of ``likeness precompute``.
        vae: folder of ``likeness.recipes.vae`` that the untrained model gets; that of the known model if None.
        text: folder of ``likeness.recipes.text_encoder``, likewise.
    """

    pairs: Path
    pairs_two: Path
    base: Path
    store: Path
    vae: Path | None = None
    text: Path | None = None

    @classmethod
    def below(cls, folder: Path) -> Material:
        """The places in a folder of runs."""
        return cls(folder / "pairs", folder / "pairs_two", folder / "untrained", folder / "store")

    @classmethod
    def chosen(cls, arguments: argparse.Namespace) -> Material:
        """The places in the folder of the runs but for those that the options of :func:`add_options` name."""
        given = {field.name: getattr(arguments, field.name, None) for field in fields(cls)}
        return replace(cls.below(arguments.output), **{name: path for name, path in given.items() if path is not None})


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a recipe that trains: what it trains on, in how many processes, and the seed."""
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--start", help="name or folder of a trained model, in place of the first runs")
    parser.add_argument("--pairs", type=Path, help="folder of likeness.recipes.pairs; in the runs' by default")
    parser.add_argument("--base", type=Path, help="untrained model; in the runs' by default")
    parser.add_argument("--vae", type=Path, help="VAE of the untrained model; the known tiny model's by default")
    parser.add_argument(
        "--text", type=Path, help="text encoder of the untrained model; the known tiny model's by default"
    )
    parser.add_argument("--store", type=Path, help="folder of likeness precompute; in the runs' by default")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="faster; needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=0)


_LISTS = ("pretraining", "cross", "tradeoff")  # photographs.json has the clips of the first


def prepare(material: Material, *, people: int, processes: int, seed: int, together: bool = False) -> None:
    """Make what is missing; a second call finds everything there.

    Args:
        material: where it goes.
        people: to draw, one a clip; with ``together`` half as many more, two a clip.
        processes: that share the work.
        seed: of the untrained weights.
    """
    drawn = [(material.pairs, people, 1)] + ([(material.pairs_two, people // 2, 2)] if together else [])
    for number, (folder, count, size) in enumerate(drawn):
        if not (folder / "tradeoff.json").exists():
            # People are drawn once: those in pairs come after those alone.
            _run(
                "likeness.recipes.pairs", "--output", folder, "--first", number * people, "--people", count,
                "--together", size, "--processes", processes,
            )  # fmt: skip
    if not (material.base / "model_index.json").exists():
        untrained(material, seed)
    for folder, _, size in drawn:
        done = material.store / f".complete-{size}"
        if not done.exists():
            lists = [folder / f"{kind}.json" for kind in _LISTS]
            _run(
                "likeness", "precompute", *lists, "--model", material.base, "--output", material.store, "--faces",
                "--processes", processes,
            )  # fmt: skip
            done.touch()


def launch(config: TrainConfig, folder: Path, *, processes: int, compiled: bool) -> None:
    """Train in processes of their own; a finished run is left as it is, one that was stopped goes on."""
    if (folder / "model" / "model_index.json").exists():
        return
    file = folder.with_name(f"{folder.name}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(config.to_dict(), indent=2) + "\n", encoding="utf-8")
    settings = ["--set", f"micro_batch_size={config.batch_size // processes}"]
    settings += ["--set", "compile=true"] if compiled else []
    _run("likeness", "train", file, "--output", folder, "--processes", processes, *settings)


def untrained(material: Material, seed: int) -> Path:
    """A transformer of random weights with the tiny model's scheduler, VAE and text encoder, or other ones, as a model folder."""
    torch.manual_seed(seed)
    pipeline = LikenessPipeline.from_pretrained(resolve_model("tiny"), method=TINY_CONCAT_ID)
    pipeline.register_modules(transformer=ConcatWanTransformer3DModel(**TRANSFORMER))
    if material.vae is not None:
        pipeline.register_modules(vae=AutoencoderKLWan.from_pretrained(material.vae, torch_dtype=torch.float32))
    if material.text is not None:
        pipeline.register_modules(
            text_encoder=UMT5EncoderModel.from_pretrained(material.text / "text_encoder", dtype=torch.float32),
            tokenizer=AutoTokenizer.from_pretrained(material.text / "tokenizer"),
        )
    pipeline.save_pretrained(material.base)
    return material.base


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)
