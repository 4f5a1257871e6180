"""What a run leaves: a model folder that generates, with the method and the whole configuration inside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from likeness.backbones.known import MODELS
from likeness.backbones.load import BASE_KEY, LORA_FILE, METHOD_FILE, folders_of, read_index, resolve_model
from likeness.convert.write import take_parts
from likeness.errors import UserError
from likeness.media import share_weights
from likeness.train.average import ParameterAverage, gather, trained_parameters
from likeness.train.config import TrainConfig
from likeness.train.parts import Parts

CONFIG_FILE = "training.json"


def write_result(
    output: Path, config: TrainConfig, parts: Parts, module: nn.Module, average: ParameterAverage | None, is_main: bool
) -> Path:
    """Write ``model/`` into a run's folder, from the moving average where there is one. Every process calls it.

    After full training it is a whole model in diffusers' layout. After LoRA it is the adapter, as diffusers' ``load_lora_weights``
    takes it, and the name of its base: a folder that generates as well.

    Returns:
        The folder.

    Raises:
        UserError: for a full disk; the checkpoints are whole.
    """
    folder, work = output / "model", output / ".model.tmp"
    weights = (
        average.gathered() if average is not None else {n: gather(p) for n, p in trained_parameters(module).items()}
    )
    weights = {name.removeprefix("transformer."): value for name, value in weights.items()}
    if not is_main:
        return folder
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if config.lora is None:
            _write_model(work, config, parts, weights)
        else:
            _write_lora(work, output, config, parts, weights)
        _write_json(work / CONFIG_FILE, config.to_dict())
        share_weights(work, work / CONFIG_FILE)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(work, folder)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError(
            f"The model could not be written to {folder}: {error}. Make room and start the same command again: the run is "
            "over, only the model is written."
        ) from error
    return folder


def _write_model(work: Path, config: TrainConfig, parts: Parts, weights: dict[str, Tensor]) -> None:
    """The trained transformer beside the other parts of the model that the run started from, as they are."""
    pipeline: Any = parts.pipeline
    trained = pipeline.transformer
    with torch.device("meta"):
        fresh = type(trained).from_config(trained.config)
    buffers = {name: value.detach().cpu() for name, value in trained.state_dict().items() if name not in weights}
    fresh.load_state_dict({**buffers, **weights}, assign=True)
    kept = tuple(getattr(fresh, "_keep_in_fp32_modules", None) or ())
    for name, parameter in fresh.named_parameters():
        if not any(part in name for part in kept):
            parameter.data = parameter.data.to(torch.bfloat16)
    fresh.save_pretrained(work / "transformer")
    start = resolve_model(config.model)
    take_parts(start, work)
    index = read_index(folders_of(start))
    library = type(fresh).__module__ if type(fresh).__module__.startswith("likeness.") else "diffusers"
    sizes = dict(zip(("num_frames", "height", "width"), parts.size, strict=True), fps=round(parts.fps))
    index |= {"_class_name": "LikenessPipeline", "transformer": [library, type(fresh).__name__]}
    index |= {f"default_{name}": value for name, value in sizes.items()}
    index.setdefault("default_num_inference_steps", pipeline.config.default_num_inference_steps)
    _write_json(work / "model_index.json", index)
    _write_json(work / METHOD_FILE, config.method.to_dict())
    # Where a part was loaded from is nobody's business.
    settings = json.loads((work / "transformer" / "config.json").read_text(encoding="utf-8"))
    settings.pop("_name_or_path", None)
    _write_json(work / "transformer" / "config.json", settings)


def _write_lora(work: Path, output: Path, config: TrainConfig, parts: Parts, weights: dict[str, Tensor]) -> None:
    assert config.lora is not None
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapter = get_peft_model_state_dict(parts.pipeline.transformer, state_dict=weights, adapter_name="default")
    # The scale goes into the weights: not every reader looks for alpha, and one that does takes alpha = rank without it.
    scales = {"lora_A": 1.0, "lora_B": config.lora.alpha / config.lora.rank}
    tensors = {
        f"transformer.{name}": (value * scales[name.split(".")[-2]]).to(torch.bfloat16).contiguous()
        for name, value in adapter.items()
    }
    base = config.model if config.model in MODELS else os.path.relpath(resolve_model(config.model), output / "model")
    sizes = dict(zip(("num_frames", "height", "width"), parts.size, strict=True), fps=round(parts.fps))
    index = {"_class_name": "LikenessPipeline", BASE_KEY: base, **{f"default_{k}": v for k, v in sizes.items()}}
    _write_json(work / "model_index.json", index)
    save_file(tensors, work / LORA_FILE, metadata={"format": "pt", "base": base})
    _write_json(work / METHOD_FILE, config.method.to_dict())


def _write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
