"""Photographs and a prompt in, a video out: the diffusers pipeline."""

# diffusers' names come from a lazy module, which pyright cannot see through.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import get_module_execution_device, randn_tensor
from torch import Tensor

from likeness.backbones.base import Backbone
from likeness.backbones.families import backbone_of
from likeness.backbones.load import METHOD_FILE, folders_of, load_backbone, load_method, read_index, resolve_model
from likeness.backbones.lora import LoraMixin
from likeness.backbones.step_cache import check_step_cache
from likeness.errors import UserError
from likeness.method import Method, without_references
from likeness.pipeline_io import (
    OUTPUT_TYPES,
    Recent,
    canvases_by_reference,
    negative_list,
    prompt_list,
    to_output,
    to_pixels,
)
from likeness.sampling import denoise

# Encoded prompts and references kept; a prompt of a large Wan takes 4 MB.
_CACHE_SIZE = 64


@dataclass
class LikenessPipelineOutput(BaseOutput):
    """Result of :class:`LikenessPipeline`.

    Attributes:
        frames: one entry a video: ``float32 [F, H, W, 3]`` in [0, 1] ("np"), a list of F pictures ("pil"), or
            ``float32 [F, 3, H, W]`` in [0, 1] ("pt"). For "latent" one tensor ``[B, C, T, H, W]``, normalised.
    """

    frames: Any


class LikenessPipeline(DiffusionPipeline, LoraMixin):
    """A video model, the method it was trained with, and everything between a prompt and frames.

    Args:
        transformer, vae, text_encoder, tokenizer, scheduler: as in a diffusers folder.
        connectors: between the text encoder and the transformer, in models that have them (LTX-2).
        method: how references reach the model.
        default_num_frames, default_height, default_width, default_fps, default_num_inference_steps: what the weights were
            made for and are best sampled with, which a call takes where it is given none. Kept in ``model_index.json``.
        timestep_dtype: of Wan's timesteps, see ``WanBackbone``.
    """

    config: Any  # a table whose keys are attributes too
    model_cpu_offload_seq = "text_encoder->connectors->transformer->vae"
    _optional_components = ["connectors"]  # noqa: RUF012 - as diffusers declares it

    def __init__(
        self,
        transformer: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        scheduler: Any,
        # Only in the signature is it optional: diffusers takes every argument without a default for a component.
        method: Method | None = None,
        default_num_frames: int = 81,
        default_height: int = 480,
        default_width: int = 832,
        default_fps: int = 16,
        default_num_inference_steps: int = 50,
        timestep_dtype: torch.dtype | None = None,
        connectors: Any = None,
    ) -> None:
        super().__init__()
        if method is None:
            raise UserError("A pipeline needs method=..., e.g. METHODS['concat-id-wan'] of likeness.method.")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            scheduler=scheduler,
            connectors=connectors,
        )
        self.register_to_config(
            default_num_frames=default_num_frames,
            default_height=default_height,
            default_width=default_width,
            default_fps=default_fps,
            default_num_inference_steps=default_num_inference_steps,
        )
        self.method = method
        self.timestep_dtype = timestep_dtype
        self.backbone.check_method(method)
        self._encoded = Recent(_CACHE_SIZE)
        self._interrupt = False

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set ``_interrupt``, which ends denoising before its next step."""
        return self._interrupt

    @property
    def backbone(self) -> Backbone:
        """The components as they are now behind the ``Backbone`` protocol."""
        return self.backbone_at(float(self.config.default_fps))

    def backbone_at(self, fps: float) -> Backbone:
        """The same for videos of ``fps`` frames a second, which some models (LTX-2) place tokens by."""
        settings: dict[str, Any] = {}
        if self.connectors is not None:
            settings |= {"connectors": self.connectors, "fps": fps}
        if self.timestep_dtype is not None:
            settings["timestep_dtype"] = self.timestep_dtype
        return backbone_of(
            transformer=self.transformer,
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            scheduler=self.scheduler,
            **settings,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *,
        method: Method | None = None,
        torch_dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        shift: float | None = None,
        timestep_dtype: torch.dtype | None = None,
    ) -> LikenessPipeline:
        """Load a folder in diffusers' layout or a known model.

        Args:
            pretrained_model_name_or_path: see :func:`likeness.backbones.load.resolve_model`.
            method: in place of the folder's ``method.json``.
            torch_dtype: of the transformer and the text encoder.
            vae_dtype: of the VAE.
            device: where all parts go.
            shift: of the sigmas, in place of the scheduler's.
            timestep_dtype: of Wan's timesteps, see ``WanBackbone``.

        Raises:
            UserError: for an unknown model or a method that does not fit the weights.
            CheckpointError: for a folder that is incomplete or broken, or has no ``method.json`` if none is given.
        """
        folder = resolve_model(pretrained_model_name_or_path)
        found = method or load_method(folder)
        # Whatever family it is of, its parts are attributes by their names.
        loaded: Any = load_backbone(folder, device, torch_dtype, vae_dtype=vae_dtype, method=found, shift=shift)
        index = read_index(folders_of(folder))
        return cls(
            transformer=loaded.transformer,
            vae=loaded.vae,
            text_encoder=loaded.text_encoder,
            tokenizer=loaded.tokenizer,
            scheduler=loaded.scheduler,
            connectors=getattr(loaded, "connectors", None),
            method=found,
            timestep_dtype=timestep_dtype,
            **{key: value for key, value in index.items() if key.startswith("default_")},
        )

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save as diffusers does, and ``method.json`` beside it."""
        super().save_pretrained(save_directory, **kwargs)
        text = json.dumps(self.method.to_dict(), indent=2) + "\n"
        (Path(save_directory) / METHOD_FILE).write_text(text, encoding="utf-8")

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings ``[B, L, D]``; each distinct prompt is encoded once, and alone, so that its bits do not depend on
        its neighbours."""
        encode = self.backbone.encode_text
        owner = (weakref.ref(self.text_encoder), self.text_encoder.dtype, self.text_encoder.device)
        return torch.cat([self._encoded.get((*owner, text), lambda text=text: encode([text])) for text in prompts])

    @torch.no_grad()
    def encode_reference(self, canvas: Any) -> Tensor:
        """Latents ``[1, C, 1, H, W]`` of a canvas ``uint8 [H, W, 3]`` or of an object that has one as ``canvas``.

        Each distinct canvas is encoded once.
        """
        pixels = np.ascontiguousarray(getattr(canvas, "canvas", canvas))
        owner = (weakref.ref(self.vae), self.vae.dtype, self.vae.device)
        key = (*owner, pixels.shape, hashlib.sha256(pixels.tobytes()).digest())
        return self._encoded.get(key, lambda: self.backbone.encode_reference(to_pixels(pixels)))

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        references: Sequence[Any] = (),
        *,
        negative_prompt: str | Sequence[str] = "",
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        text_guidance: float | None = None,
        reference_guidance: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        reference_latents: Sequence[Tensor] | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[..., dict[str, Tensor] | None] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Generate videos.

        Args:
            prompt: one, or a list for a batch.
            references: canvases ``uint8 [height, width, 3]`` from ``faces.reference_canvas`` for all prompts, or a list
                of such lists, one a prompt and all of one length. None at all gives a video of nobody in particular.
            negative_prompt: what the stream without the text reads; without one, what the method dropped text to.
            height, width: px; num_frames: frames. Those of the weights by default.
            fps: frames a second, which some models (LTX-2) place the video's tokens by; that of the weights by default.
            num_inference_steps: denoising steps, 1 or more; those of the weights by default.
            text_guidance, reference_guidance: scales in place of the method's, see ``Guidance.streams``.
            num_videos_per_prompt: videos of one prompt follow each other in the result.
            generator: for the noise, one, or one a video. One on the CPU gives the same noise on every device.
            latents: noise in place of the generator's, ``[B, C, T, H, W]``.
            prompt_embeds, negative_prompt_embeds: ``[B, L, D]`` in place of the prompts.
            reference_latents: ``[1 or B, C, 1, H, W]`` each, in place of ``references``.
            output_type: "np", "pil", "pt" or "latent".
            callback_on_step_end: called with (pipeline, step, timestep, {"latents": ...}) after each step; a dict it
                returns may replace the latents.
            return_dict: False for a tuple.

        Returns:
            :class:`LikenessPipelineOutput`.

        Raises:
            UserError: for an empty prompt, a size that the model does not make, canvases of another size, more
                references than the method takes, steps or videos below 1, an unknown output type, or a step cache that
                mixes streams.
        """
        size = self._size(num_frames, height, width)
        if num_inference_steps is None:
            num_inference_steps = int(self.config.default_num_inference_steps)
        backbone = self.backbone_at(float(self.config.default_fps if fps is None else fps))
        shape = backbone.spec.latent_shape(*size)
        backbone.spec.process.sampler(num_inference_steps)  # refuses a wrong number before anything is computed
        check_step_cache(self.transformer)
        if output_type not in OUTPUT_TYPES:
            raise UserError(f"Output type {output_type!r} was given; it must be one of {', '.join(OUTPUT_TYPES)}.")
        if num_videos_per_prompt < 1:
            raise UserError(f"{num_videos_per_prompt} videos a prompt were asked for; at least 1 is needed.")
        streams = self.method.guidance.streams(text_guidance, reference_guidance)
        prompts = prompt_list(prompt, prompt_embeds)
        batch = len(prompts) if prompt_embeds is None else len(prompt_embeds)
        canvases = canvases_by_reference(references, batch, size[1:], self.method)

        if prompt_embeds is None:
            prompt_embeds = self.encode_prompts(prompts)
        if negative_prompt_embeds is None and not all(stream.text for stream in streams):
            if self.method.dropped_text == "zeros" and not negative_prompt:
                negative_prompt_embeds = torch.zeros_like(prompt_embeds)
            else:
                negative_prompt_embeds = self.encode_prompts(negative_list(negative_prompt, batch))
        if reference_latents is None:
            reference_latents = [torch.cat([self.encode_reference(item) for item in column]) for column in canvases]

        def repeated(tensor: Tensor) -> Tensor:
            """[1 or batch, ...] -> [batch * num_videos_per_prompt, ...]"""
            return tensor.expand(batch, *tensor.shape[1:]).repeat_interleave(num_videos_per_prompt, dim=0)

        noise = self._noise((batch * num_videos_per_prompt, *shape), generator, latents)
        joined = [repeated(item).to(noise.device) for item in reference_latents]
        if not joined:
            streams = without_references(streams)
            if self.method.dropped_reference == "zeros":
                # To have none is to have dropped it, and a zero latent is what the weights know a dropped one as.
                joined = [torch.zeros_like(noise[:, :, :1])]

        self._interrupt = False
        try:
            with cast(Any, self.progress_bar)(total=num_inference_steps) as bar:
                clean = denoise(
                    backbone,
                    self.method,
                    latents=noise,
                    references=joined,
                    prompt_embeds=repeated(prompt_embeds),
                    negative_embeds=None if negative_prompt_embeds is None else repeated(negative_prompt_embeds),
                    num_inference_steps=num_inference_steps,
                    streams=streams,
                    generator=generator,
                    callback=self._step_callback(callback_on_step_end),
                    progress=lambda done, steps: bar.update(),
                    stop=lambda: self._interrupt,
                )
            # One at a time: a decoder needs far more memory than the transformer.
            frames = (
                clean
                if output_type == "latent"
                else [to_output(backbone.decode(z), output_type) for z in clean.split(1)]
            )
        finally:  # an error too leaves no state in a step cache and no weights on the device
            self.maybe_free_model_hooks()
        return LikenessPipelineOutput(frames=frames) if return_dict else (frames,)

    def _size(self, num_frames: int | None, height: int | None, width: int | None) -> tuple[int, int, int]:
        """The size asked for, the weights' own where none is."""
        config = self.config
        return (
            config.default_num_frames if num_frames is None else num_frames,
            config.default_height if height is None else height,
            config.default_width if width is None else width,
        )

    def _noise(self, shape: tuple[int, ...], generator: Any, latents: Tensor | None) -> Tensor:
        """Where denoising starts, ``float32`` of ``shape`` where the transformer computes.

        ``_execution_device`` is another part's device where the parts are spread, and which part's may change between processes.
        """
        device = get_module_execution_device(self.transformer)
        if latents is not None:
            if tuple(latents.shape) != shape:
                raise UserError(f"Latents {list(latents.shape)} were given; this video takes {list(shape)}.")
            return latents.to(device, torch.float32)
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise UserError(f"{len(generator)} generators were given for {shape[0]} videos; give one, or one a video.")
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)

    def _step_callback(
        self, callback: Callable[..., Any] | None
    ) -> Callable[[int, float, Tensor], Tensor | None] | None:
        """diffusers' callback as the loop calls one."""
        if callback is None:
            return None

        def on_step(step: int, sigma: float, latents: Tensor) -> Tensor | None:
            timestep = self.backbone.spec.process.timestep(torch.tensor([sigma])).item()
            return (callback(self, step, timestep, {"latents": latents}) or {}).get("latents")

        return on_step
