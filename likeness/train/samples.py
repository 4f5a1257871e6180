"""From a pair to what the objective takes, by way of a store or of the files: the numbers are the same.

`Samples.load` reads and decodes and may run on any thread; `Samples.encode` runs the VAE and the text encoder, on the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from likeness.backbones.base import Backbone
from likeness.errors import UserError
from likeness.faces.canvas import fit_canvas
from likeness.faces.pack import FacePack
from likeness.media import PICTURE_SUFFIXES, read_picture
from likeness.method import ReferenceKind
from likeness.pipeline_io import Recent
from likeness.train.clips import Clip, Crop, FrameRule, read_clip
from likeness.train.fingerprint import faces_fingerprint
from likeness.train.keypoints import embedding_of, embedding_size, find_keypoints, read_keypoints
from likeness.train.pairs import Pair
from likeness.train.store import Store, halved, key_of

_RECENT_PROMPTS = 64
_RECENT_FACES = 4096


@dataclass(frozen=True)
class Keys:
    """Where a store keeps what a pair becomes."""

    latents: str
    prompt: str
    references: tuple[str, ...]
    keypoints: str | None
    embeddings: tuple[str, ...]
    mask: str | None

    def all(self) -> list[str]:
        """Every key."""
        singles = (self.latents, self.prompt, self.keypoints, self.mask)
        return [*(key for key in singles if key is not None), *self.references, *self.embeddings]


@dataclass(eq=False)
class Loaded:
    """A pair after reading: what was stored, and what is still to be encoded.

    Attributes:
        keys: None without a store.
        kinds: what each reference shows.
        latents: ``[C, T, H, W]`` in 16 bits, or None: then ``frames`` are to be encoded.
        prompt: ``[L', D]`` in 16 bits without the zeros at its end, or None: then ``caption`` is to be embedded.
        references: canvases ``uint8 [H, W, 3]``.
        keypoints: ``float32 [M, F, 5, 2]`` or None.
        embeddings: ``float32 [M, E]`` or None.
        mask: ``[T, H, W]`` in 16 bits, or None.
    """

    keys: Keys | None
    kinds: tuple[ReferenceKind, ...]
    caption: str
    latents: Tensor | None
    frames: np.ndarray | None
    prompt: Tensor | None
    references: tuple[Tensor, ...]
    keypoints: Tensor | None
    embeddings: Tensor | None
    mask: Tensor | None


@dataclass(frozen=True, eq=False)
class Sample:
    """A pair as one row of a batch; see ``Batch``, less the axis B."""

    latents: Tensor
    references: tuple[Tensor, ...]
    prompt_embeds: Tensor
    keypoints: Tensor | None
    embeddings: Tensor | None
    mask: Tensor | None


class Samples:
    """Makes samples.

    Args:
        backbone: its encoders are used for what the store lacks.
        rule: frames of a clip.
        store: None encodes everything.
        faces: face models, which tell whether the store's faces are theirs; None leaves faces out.
        embed_references: whether samples have the references' embeddings. A detector and a recogniser run for each that the store
            lacks, which takes as long as training a small model.
        find_faces: with ``embed_references``, look for the references in every frame of clips that come without keypoints.
        made: gets every tensor that was not in the store, by key.
    """

    def __init__(
        self,
        backbone: Backbone,
        rule: FrameRule,
        *,
        store: Store | None,
        faces: FacePack | None = None,
        embed_references: bool = True,
        find_faces: bool = False,
        made: dict[str, Tensor] | None = None,
    ) -> None:
        self.backbone, self.rule, self.store, self.faces, self.made = backbone, rule, store, faces, made
        self.find_faces, self.embed_references = find_faces, embed_references and faces is not None
        self._faces_fingerprint = faces_fingerprint(faces) if faces is not None and store is not None else ""
        self._embedding_size = 0 if faces is None else embedding_size(faces)
        self._prompts = Recent(_RECENT_PROMPTS)
        self._embeddings: dict[Path, Tensor] = {}  # shared by threads

    @property
    def looks_up_faces(self) -> bool:
        """Whether the store knows faces, found with the models that are used here."""
        return self.store is not None and self.faces is not None and self.store.info.faces == self._faces_fingerprint

    def check_faces(self) -> None:
        """Refuse a store whose faces were found with other models.

        Raises:
            UserError: naming both.
        """
        if self.store is not None and self.faces is not None and self.store.info.faces and not self.looks_up_faces:
            raise UserError(
                f"The faces in the store {self.store.folder} were found with other face models than those in "
                f"{self.faces.folder}. Give the models that it was made with, or run `likeness precompute --faces` again with "
                "these."
            )

    def keys(self, pair: Pair, height: int, width: int) -> Keys:
        """The keys of a pair in its bucket; hashes files that the store has not seen.

        Raises:
            UserError: for a file that is missing.
        """
        store = self.store
        assert store is not None
        video, spec = store.file(pair.video).sha256, self.backbone.spec
        references = [store.file(path).sha256 for path in pair.references]
        faces = [digest for digest, kind in zip(references, pair.kinds, strict=True) if kind == "face"]
        size, stride = (height, width), (spec.spatial_stride, spec.temporal_stride)
        keypoints = None
        if pair.faces is not None:
            keypoints = key_of("keypoints", video, store.file(pair.faces).sha256, self.rule, size)
        elif faces and (self.find_faces or self.looks_up_faces):
            keypoints = key_of("found", video, faces, self.rule, size, self._faces_fingerprint)
        return Keys(
            latents=key_of("latents", video, self.rule, size, store.info.video),
            prompt=key_of("prompt", pair.caption, store.info.text),
            references=tuple(key_of("reference", digest, size) for digest in references),
            keypoints=keypoints,
            embeddings=tuple(key_of("identity", digest, self._faces_fingerprint) for digest in faces)
            if self.embed_references
            else (),
            mask=None if pair.mask is None else key_of("mask", store.file(pair.mask).sha256, self.rule, size, stride),
        )

    def load(self, pair: Pair, height: int, width: int) -> Loaded:
        """Everything of a pair that needs no model on the device.

        Raises:
            UserError: for a file that is missing, damaged or does not fit.
        """
        keys = None if self.store is None else self.keys(pair, height, width)
        clip: Clip | None = None

        def decoded() -> Clip:
            nonlocal clip
            clip = clip or read_clip(pair.video, self.rule, height, width)
            return clip

        latents = self._stored(keys and keys.latents)
        frames = decoded().frames if latents is None else None
        references = tuple(
            self._got(key, lambda path=path: _canvas(path, height, width))
            for path, key in zip(pair.references, _each(keys and keys.references, pair.references), strict=True)
        )
        embeddings = self._reference_embeddings(pair, keys)
        keypoints = self._keypoints(pair, keys, decoded, embeddings)
        mask = None
        if pair.mask is not None:
            mask = self._got(keys and keys.mask, lambda: self._mask(pair.mask, height, width))
        prompt = self._stored(keys and keys.prompt)
        return Loaded(keys, pair.kinds, pair.caption, latents, frames, prompt, references, keypoints, embeddings, mask)

    @torch.no_grad()
    def encode(self, loaded: Loaded) -> Sample:
        """Encode what is still to be encoded. Each clip and prompt goes through its encoder alone, so that its numbers do not
        depend on what else is in the batch."""
        keys, latents, prompt = loaded.keys, loaded.latents, loaded.prompt
        if latents is None:
            assert loaded.frames is not None
            pixels = torch.from_numpy(loaded.frames).permute(3, 0, 1, 2)[None].float().div(127.5).sub(1.0)
            latents = halved(self.backbone.encode_video(pixels)[0])
            if not latents.isfinite().all():
                raise UserError("The VAE made latents that are not finite; give its weights in float32.")
            self._keep(keys and keys.latents, latents)
        if prompt is None:
            embeds = self._prompts.get(loaded.caption, lambda: halved(self.backbone.encode_text([loaded.caption])[0]))
            prompt = self._keep(keys and keys.prompt, _trimmed(embeds))
        return Sample(
            latents=latents.float(),
            references=tuple(_pixels(canvas) for canvas in loaded.references),
            prompt_embeds=functional.pad(prompt.float(), (0, 0, 0, self.text_length - len(prompt))),
            keypoints=loaded.keypoints,
            embeddings=loaded.embeddings,
            mask=None if loaded.mask is None else loaded.mask.float()[None],
        )

    @cached_property
    @torch.no_grad()
    def text_length(self) -> int:
        """L of prompt embeddings."""
        return self.backbone.encode_text([""]).shape[1] if self.store is None else self.store.info.text_length

    def _stored(self, key: str | None) -> Tensor | None:
        if key is None or self.store is None:
            return None
        return self.made[key] if self.made is not None and key in self.made else self.store.read(key)

    def _keep(self, key: str | None, tensor: Tensor) -> Tensor:
        if key is not None and self.made is not None:
            self.made[key] = tensor
        return tensor

    def _got(self, key: str | None, make: Callable[[], Tensor]) -> Tensor:
        stored = self._stored(key)
        return self._keep(key, make()) if stored is None else stored

    def _reference_embeddings(self, pair: Pair, keys: Keys | None) -> Tensor | None:
        """``float32 [M, E]``, NaN for what is no face."""
        if not self.embed_references:
            return None
        rows = torch.full((len(pair.references), self._embedding_size), torch.nan)
        faces = [index for index, kind in enumerate(pair.kinds) if kind == "face"]
        for index, key in zip(faces, _each(keys and keys.embeddings, faces), strict=True):
            path = pair.references[index]
            rows[index] = self._got(key, lambda path=path: self._face(path))
        return rows

    def _face(self, path: Path) -> Tensor:
        assert self.faces is not None
        known = self._embeddings.get(path)
        if known is None:
            embedding = embedding_of(read_picture(path), self.faces)
            known = torch.full((self._embedding_size,), torch.nan) if embedding is None else torch.from_numpy(embedding)
            if len(self._embeddings) >= _RECENT_FACES:
                self._embeddings.clear()
            self._embeddings[path] = known
        return known

    def _keypoints(
        self, pair: Pair, keys: Keys | None, decoded: Callable[[], Clip], embeddings: Tensor | None
    ) -> Tensor | None:
        """``float32 [M, F, 5, 2]`` px of the decoded size, NaN for what is no face or not seen."""
        faces = [index for index, kind in enumerate(pair.kinds) if kind == "face"]
        key = keys and keys.keypoints
        points: Tensor | None = None
        if pair.faces is not None:
            path = pair.faces
            points = self._got(key, lambda: _known(path, len(faces), decoded()))
        elif self.find_faces and faces and embeddings is not None and self.faces is not None:
            pack, wanted = self.faces, embeddings[faces].numpy()
            points = self._got(key, lambda: torch.from_numpy(find_keypoints(decoded().frames, wanted, pack)))
        elif self.looks_up_faces:
            points = self._stored(key)
        if points is None:
            return None
        rows = torch.full((len(pair.references), *points.shape[1:]), torch.nan)
        rows[faces] = points
        return rows

    def _mask(self, path: Path | None, height: int, width: int) -> Tensor:
        """``[T, H, W]`` in 16 bits: which share of the pixels and frames of each latent is bright."""
        assert path is not None
        if path.suffix.lower() in PICTURE_SUFFIXES:
            picture = read_picture(path)
            shown = Crop.centred(picture.shape[:2], (height, width)).picture(picture)  # pyright: ignore[reportArgumentType]
            frames = np.broadcast_to(shown, (self.rule.num_frames, *shown.shape))
        else:
            frames = read_clip(path, self.rule, height, width).frames
        spec = self.backbone.spec
        inside = torch.from_numpy(frames.mean(-1) >= 128).float()[None]  # [1, F, H, W]
        areas = functional.avg_pool2d(inside, spec.spatial_stride)[0]
        rest = areas[1:].unflatten(0, (-1, spec.temporal_stride)).mean(1)
        return halved(torch.cat([areas[:1], rest]))


def _each(keys, like):
    return [None] * len(like) if keys is None else keys


def _canvas(path: Path, height: int, width: int) -> Tensor:
    return torch.from_numpy(fit_canvas(read_picture(path), height, width))


def _pixels(canvas: Tensor) -> Tensor:
    """``uint8 [H, W, 3]`` -> ``float32 [3, 1, H, W]`` in [-1, 1]."""
    return canvas.float().div(127.5).sub(1.0).permute(2, 0, 1)[:, None]


def _known(path: Path, num_faces: int, clip: Clip) -> Tensor:
    points = read_keypoints(path, num_faces)
    if points.shape[1] <= max(clip.indices):
        raise UserError(
            f"The keypoints in {path} are of {points.shape[1]} frames; frame {max(clip.indices)} of the clip is needed, counted "
            "from 0. Make them of the whole clip."
        )
    return torch.from_numpy(clip.crop.points(points[:, list(clip.indices)]))


def _trimmed(prompt: Tensor) -> Tensor:
    """``[L, D]`` without the zeros at its end, at least one row."""
    rows = prompt.any(1).nonzero()
    return prompt[: int(rows.max()) + 1 if len(rows) else 1].clone()
