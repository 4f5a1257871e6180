"""ST-DRC's face-guided losses (section 3.3, Eq. 6-12) on a decoded window of the clean estimate."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from likeness.backbones.base import Backbone
from likeness.errors import UserError
from likeness.faces.align import ARCFACE_SIZE_PX
from likeness.faces.pack import FacePack
from likeness.faces.torch_recogniser import TorchRecogniser, align_faces, face_boxes
from likeness.method import IdentityLoss
from likeness.train.losses import identity_loss, temporal_identity_loss
from likeness.train.objective import Batch

_MIN_SPREAD_PX = 1.0  # root mean square distance of keypoints from their middle: a smaller face cannot be aligned


class IdentityObjective:
    """The identity losses of a batch, without a detector: where faces are is known from the real clip.

    Decoding is what costs, so one short window of each video is decoded. It is drawn among those that show a face; the
    frames of the whole video take turns over the steps. The gradient reaches the latents of the window; earlier ones
    serve the decoder as context without gradient.

    Args:
        recogniser: frozen.
        weights: of the losses.
        window: latents to decode.
        max_frames: frames of a window whose faces are embedded, evenly spaced; None for all.
        margin: latents on each side of the faces that are decoded along with them, at whose edge the decoder finds nothing where there
            was the rest of the picture; None decodes whole frames. The videos of a batch are cut to one size.
    """

    def __init__(
        self,
        recogniser: TorchRecogniser,
        weights: IdentityLoss,
        *,
        window: int = 1,
        max_frames: int | None = None,
        margin: int | None = None,
    ) -> None:
        if window < 1 or (max_frames is not None and max_frames < 1):
            raise UserError(f"A window of {window} latents and max_frames {max_frames} were given; both are 1 or more.")
        if margin is not None and margin < 0:
            raise UserError(f"A margin of {margin} latents about faces was given; it is 0 or more, or null.")
        self.recogniser, self.weights = recogniser, weights
        self.window, self.max_frames, self.margin = window, max_frames, margin

    @classmethod
    def from_pack(
        cls,
        pack: FacePack,
        weights: IdentityLoss,
        *,
        device: torch.device | str = "cpu",
        window: int = 1,
        max_frames: int | None = None,
        margin: int | None = None,
    ) -> IdentityObjective:
        """With the recogniser of some face models.

        Raises:
            CheckpointError: for a recogniser of unknown operations.
            UserError: for face models without a recogniser, or with one that takes crops of another size.
        """
        recogniser = pack.recognizer
        if recogniser is None:
            raise UserError(
                f"The face models in {pack.folder} have no recogniser, which identity losses need. Name a folder with one "
                "(ArcFace, ONNX), or train with method.identity_loss = null."
            )
        if tuple(recogniser.input_size) != (ARCFACE_SIZE_PX, ARCFACE_SIZE_PX):
            raise UserError(
                f"The recogniser {recogniser.model_file} takes crops of {tuple(recogniser.input_size)} px; identity losses "
                f"align to {ARCFACE_SIZE_PX} x {ARCFACE_SIZE_PX}. Use an ArcFace network of that size."
            )
        module = TorchRecogniser.from_onnx(recogniser.model_file).to(device)
        return cls(module, weights, window=window, max_frames=max_frames, margin=margin)

    def __call__(
        self,
        backbone: Backbone,
        z_t: Tensor,
        prediction: Tensor,
        sigma: Tensor,
        batch: Batch,
        generators: Sequence[torch.Generator],
        *,
        conditioned: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """``w_aux (lambda_id L_id + lambda_tic L_tic)`` (Eq. 11), averaged over the batch.

        Several identities of a video count alike: the losses are averaged over those with a face in the window.
        A video without one counts 0.

        Args:
            backbone: whose ``decode_window`` takes gradients.
            z_t: noisy latents ``[B, C, T, H, W]``.
            prediction: of the model for them.
            sigma: noise levels ``[B]``.
            batch: with keypoints and the references' embeddings.
            generators: one a sample, on the CPU.
            conditioned: ``bool [B]``, whether the model saw a sample's references; None for all.

        Returns:
            The loss, and figures without gradient: ``identity`` (Eq. 9) and ``temporal_identity`` (Eq. 10), averaged over
            the videos with a face, and ``identity_videos``, the share of those.

        Raises:
            UserError: where nobody looked for faces.
        """
        keypoints, references = batch.keypoints, batch.reference_embeddings
        of_video = self.weights.target == "video"
        if keypoints is None or (references is None and not of_video):
            raise UserError(
                "The identity losses need to know where faces are, and the training data does not say. Run `likeness "
                "precompute --faces` and train with its --store, or set method.identity_loss to null."
            )
        process = backbone.spec.process.for_video(backbone.spec.num_video_tokens(z_t))
        clean = process.clean_estimate(z_t, prediction, sigma)  # Eq. 6
        importance = process.snr_weight(sigma, self.weights.gamma)  # Eq. 12, [B]
        stride = backbone.spec.spatial_stride
        seen = _valid(keypoints, z_t.shape[3] * stride, z_t.shape[4] * stride)
        if references is not None:
            seen = seen & references.isfinite().all(-1)[:, :, None]
        if conditioned is not None:
            # The paper is silent. A model that was not shown the reference cannot know the person, and pulling its
            # unconditional prediction to each sample's reference teaches it an average face, which guidance subtracts.
            seen = seen & conditioned.to(seen.device).view(-1, 1, 1)

        starts = self._starts(seen, z_t.shape[2], backbone.spec.temporal_stride, generators)
        loss, figures = clean.new_zeros(()), clean.new_zeros(3)
        for start in sorted({start for start in starts if start is not None}):
            rows = torch.tensor([index for index, own in enumerate(starts) if own == start], device=z_t.device)
            begin, end = _frames(start, self.window, backbone.spec.temporal_stride)
            chosen = self._thinned(seen[rows, :, begin:end])
            points = keypoints[rows, :, begin:end]
            region = None
            if self.margin is not None:
                region = _region(points, chosen, z_t.shape[3:], stride, self.margin)
                points = points - stride * points.new_tensor(region[0])[:, None, None, None]
            pixels = backbone.decode_window(_cut(clean[rows], region), start, self.window)  # Eq. 7
            if of_video:
                with torch.no_grad():  # by way of the decoder, which leaves less of a face than there was
                    real = backbone.decode_window(_cut(batch.latents[rows], region), start, self.window)
                    targets = self._embedded(real, points, chosen)
            else:
                assert references is not None  # checked above
                # A reference without a face is NaN; its losses are masked, and NaN times 0 would not be.
                targets = references[rows].nan_to_num().to(pixels)
            id_loss, tic_loss = self._losses(self._embedded(pixels, points, chosen), targets, chosen)
            terms = self.weights.weight * id_loss + self.weights.temporal_weight * tic_loss
            loss = loss + (importance[rows].to(terms) * terms).sum()
            figures = (
                figures + torch.stack([id_loss.sum(), tic_loss.sum(), terms.new_tensor(float(len(rows)))]).detach()
            )
        id_sum, tic_sum, count = figures.tolist()
        return loss / len(z_t), {
            "identity": id_sum / max(count, 1.0),
            "temporal_identity": tic_sum / max(count, 1.0),
            "identity_videos": count / len(z_t),
        }

    def _starts(
        self, seen: Tensor, num_latents: int, stride: int, generators: Sequence[torch.Generator]
    ) -> list[int | None]:
        """First latent of each sample's window, drawn among those that show a face; None where none does."""
        if self.window > num_latents:
            raise UserError(
                f"A window of {self.window} latents was given for the identity losses; the video has {num_latents}."
            )
        windows = range(num_latents - self.window + 1)
        frames = [_frames(start, self.window, stride) for start in windows]
        shows = torch.stack([seen[:, :, begin:end].flatten(1).any(1) for begin, end in frames], 1).cpu()  # [B, windows]
        starts: list[int | None] = []
        for row, generator in zip(shows, generators, strict=True):
            good = row.nonzero().flatten()
            draw = torch.rand((), generator=generator).item()  # drawn in any case
            starts.append(int(good[int(draw * len(good))]) if len(good) else None)
        return starts

    def _thinned(self, seen: Tensor) -> Tensor:
        """At most ``max_frames`` of each face's frames ``bool [B, M, F]``, evenly spaced among those that show it."""
        if self.max_frames is None:
            return seen
        rank, count = seen.long().cumsum(2) - 1, seen.sum(2, keepdim=True)
        kept = torch.minimum(count, torch.tensor(self.max_frames, device=seen.device)).clamp_min(1)
        # Frame r of n is kept where r * kept / n passes a whole number.
        before = torch.div((rank - 1) * kept, count.clamp_min(1), rounding_mode="floor")
        return seen & (torch.div(rank * kept, count.clamp_min(1), rounding_mode="floor") > before)

    def _embedded(self, pixels: Tensor, keypoints: Tensor, seen: Tensor) -> Tensor:
        """Eq. 8 for videos ``[B, 3, F, H, W]`` with keypoints ``[B, M, F, 5, 2]``: ``[B, M, F, E]``, zero where no face is seen."""
        row, _, frame = seen.nonzero(as_tuple=True)
        found = self.recogniser(align_faces(pixels.transpose(1, 2)[row, frame], keypoints[seen]))  # [faces, E]
        return found.new_zeros(*seen.shape, found.shape[1]).index_put((seen,), found)

    def _losses(self, embeddings: Tensor, targets: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 9 and 10 for embeddings ``[B, M, F, E]`` and targets ``[B, M, E]`` or one a frame: two tensors ``[B]``."""
        batch, people, _ = seen.shape
        there = seen.any(2)  # [B, M]
        num_people = there.sum(1).clamp_min(1)

        def averaged(losses: Tensor) -> Tensor:
            return (losses.view(batch, people) * there).sum(1) / num_people

        rows, flat = embeddings.flatten(0, 1), seen.flatten(0, 1)
        identity = identity_loss(rows, targets.flatten(0, 1).to(rows), flat)
        return averaged(identity), averaged(temporal_identity_loss(rows, flat))


def _frames(start: int, length: int, stride: int) -> tuple[int, int]:
    """The frames of latents ``start .. start + length``: the first covers one frame, each other ``stride``."""
    return max(0, stride * (start - 1) + 1), stride * (start + length - 1) + 1


_Region = tuple[list[list[int]], tuple[int, int]]  # (x, y) of each video's first latent, height and width of all


def _region(keypoints: Tensor, seen: Tensor, extent: Sequence[int], stride: int, margin: int) -> _Region:
    """Where the faces that are looked at lie in each video's latents.

    Args:
        keypoints: ``[B, M, F, 5, 2]`` px; seen: ``bool [B, M, F]``, at least one a video.
        extent: height and width of the latents; stride: px of one; margin: latents about the faces.
    """
    rows = seen.nonzero()[:, :1].expand(-1, 2)  # [faces, 2]
    low, high = (face_boxes(keypoints[seen]) / stride).unbind(1)
    limit = low.new_tensor([extent[1], extent[0]])
    low = low.new_full((len(seen), 2), torch.inf).scatter_reduce(0, rows, low, "amin")
    high = high.new_full((len(seen), 2), -torch.inf).scatter_reduce(0, rows, high, "amax")
    low, high = low.floor().sub(margin).clamp_min(0), high.ceil().add(margin).clamp_min(1)
    low, high = torch.minimum(low, limit - 1), torch.minimum(high, limit)
    size = (high - low).amax(0)
    # In one transfer: the device is waited for once.
    *corners, (width, height) = torch.cat([torch.minimum(low, limit - size), size[None]]).long().tolist()
    return corners, (height, width)


def _cut(latents: Tensor, region: _Region | None) -> Tensor:
    """``[B, C, T, H, W]`` -> each video's region of it; everything for None."""
    if region is None:
        return latents
    corners, (height, width) = region
    return torch.stack(
        [video[..., y : y + height, x : x + width] for video, (x, y) in zip(latents, corners, strict=True)]
    )


def _valid(keypoints: Tensor, height: int, width: int) -> Tensor:
    """Which faces can be aligned, ``[..., 5, 2]`` -> ``bool [...]``: known, in the picture, and not a point."""
    middle = keypoints.mean(-2)
    inside = ((middle >= 0) & (middle < torch.tensor([width, height], device=middle.device))).all(-1)
    spread = (keypoints - middle.unsqueeze(-2)).square().sum(-1).mean(-1).sqrt()
    return inside & (spread > _MIN_SPREAD_PX)  # comparisons with NaN are false
