"""What may happen to a face between the camera and the recogniser, on batches of tensors.

Pixels are floats in [0, 255] laid out [N, 3, H, W]; points are px with the origin at the corner of the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Where InsightFace puts the eyes, the nose and the corners of the mouth in its 112 px crop.
ARCFACE_TEMPLATE = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def similarities(points: Tensor, template: Tensor = ARCFACE_TEMPLATE) -> Tensor:
    """The least-squares similarity (Umeyama 1991, without reflection) from each `points` [N, 5, 2] to `template` [5, 2].

    In the plane it is a regression over complex numbers: w = a z + b. Returns matrices [N, 2, 3].
    """
    z = torch.view_as_complex(points.double().contiguous())
    w = torch.view_as_complex(template.double().contiguous())
    z_mean, w_mean = z.mean(1, keepdim=True), w.mean()
    centred = z - z_mean
    a = (centred.conj() * (w - w_mean)).sum(1) / (centred.abs() ** 2).sum(1)
    b = w_mean - a * z_mean[:, 0]
    return torch.stack([a.real, -a.imag, b.real, a.imag, a.real, b.imag], 1).view(-1, 2, 3).float()


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The affine maps "first inner, then outer"; [N, 2, 3] each."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    return torch.cat([linear, outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]], 2)


def invert(matrices: Tensor) -> Tensor:
    """The inverses of affine maps [N, 2, 3]."""
    linear = torch.linalg.inv(matrices[:, :, :2])
    return torch.cat([linear, -linear @ matrices[:, :, 2:]], 2)


def transform(points: Tensor, matrices: Tensor) -> Tensor:
    """points [N, K, 2] moved by matrices [N, 2, 3]."""
    return points @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]


def warp(pixels: Tensor, matrices: Tensor, height: int, width: int, *, mode: str = "bilinear") -> Tensor:
    """Pictures [N, C, h, w] moved by matrices [N, 2, 3] (picture px -> crop px); 0 outside, as cv2.warpAffine does.

    Like cv2 (and so InsightFace) it takes coordinates as those of pixels' centres.
    """
    source_height, source_width = pixels.shape[2:]
    back = invert(matrices)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    targets = torch.stack([x, y], -1).view(1, -1, 2).float().expand(len(pixels), -1, -1)
    sources = transform(targets, back) + 0.5
    grid = sources / torch.tensor([source_width, source_height]) * 2 - 1
    grid = grid.view(-1, height, width, 2)
    return F.grid_sample(pixels, grid, mode=mode, padding_mode="zeros", align_corners=False)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def random_similarities(
    count: int,
    size: float,
    generator: torch.Generator,
    *,
    scale: float = 0.06,
    degrees: float = 5.0,
    shift_px: float = 2.5,
) -> Tensor:
    """Small similarities about the centre of a crop of `size` px; [count, 2, 3]."""
    factor = torch.exp(uniform((count,), -scale, scale, generator))
    angle = uniform((count,), -math.radians(degrees), math.radians(degrees), generator)
    cosine, sine = factor * angle.cos(), factor * angle.sin()
    linear = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
    centre = torch.full((2, 1), size / 2)
    offset = uniform((count, 2, 1), -shift_px, shift_px, generator)
    return torch.cat([linear, centre - linear @ centre + offset], 2)


def blur(pixels: Tensor, sigmas: Tensor) -> Tensor:
    """A Gaussian blur of its own `sigmas` [N] px for each picture."""
    radius = max(1, math.ceil(2.5 * float(sigmas.max())))
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigmas.clamp(min=1e-2)[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    n, c, h, w = pixels.shape
    x = F.pad(pixels.reshape(1, n * c, h, w), (radius,) * 4, mode="reflect")
    kernel = kernel.repeat_interleave(c, 0)
    x = F.conv2d(x, kernel.view(n * c, 1, -1, 1), groups=n * c)
    return F.conv2d(x, kernel.view(n * c, 1, 1, -1), groups=n * c).view(n, c, h, w)


def coarsen(pixels: Tensor, factor: float) -> Tensor:
    """Shrinks pictures by `factor` >= 1 and enlarges them again, as a low resolution does."""
    height, width = pixels.shape[2:]
    small = (max(8, round(height / factor)), max(8, round(width / factor)))
    shrunk = F.interpolate(pixels, small, mode="bilinear", antialias=True)
    return F.interpolate(shrunk, (height, width), mode="bilinear")


def block_codec(pixels: Tensor, steps: Tensor) -> Tensor:
    """Quantises the 8x8 cosine transform as JPEG and H.264 do in spirit: `steps` [N] are the quantisers' widths."""
    n, c, height, width = pixels.shape
    k = torch.arange(8)
    basis = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / 16) * 0.5
    basis[0] *= math.sqrt(0.5)
    blocks = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    blocks = blocks.unfold(2, 8, 8).unfold(3, 8, 8)  # [N, C, h, w, 8, 8]
    spectrum = basis @ blocks @ basis.T
    width_of = steps.view(n, 1, 1, 1, 1, 1) * (0.4 + 0.25 * (k[:, None] + k[None, :]))  # coarser for finer detail
    spectrum = torch.round(spectrum / width_of) * width_of
    back = (basis.T @ spectrum @ basis).permute(0, 1, 2, 4, 3, 5)
    return back.reshape(n, c, blocks.shape[2] * 8, blocks.shape[3] * 8)[:, :, :height, :width]


def degrade(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, coarse resolution, codec and noise, each on a random part of the batch, at the pictures' own resolution."""
    n, _, _, width = pixels.shape
    scale = width / 64  # an enlarged or large picture has proportionally wider blurs
    out = pixels

    def some(share: float) -> Tensor:
        return torch.nonzero(torch.rand(n, generator=generator) < share)[:, 0]

    if len(chosen := some(0.35)):
        out = out.index_copy(0, chosen, blur(out[chosen], uniform((len(chosen),), 0.2, 0.9, generator) * scale))
    if len(chosen := some(0.2)):
        factor = 1 + float(torch.rand((), generator=generator)) * (0.8 + 0.9 * (scale - 1))
        out = out.index_copy(0, chosen, coarsen(out[chosen], factor))
    if len(chosen := some(0.3)):
        steps = torch.exp(uniform((len(chosen),), math.log(2), math.log(30), generator))
        out = out.index_copy(0, chosen, block_codec(out[chosen], steps))
    if len(chosen := some(0.4)):
        part = out[chosen]
        strengths = uniform((len(chosen), 1, 1, 1), 0, 8, generator)
        out = out.index_copy(0, chosen, torch.randn(part.shape, generator=generator).mul_(strengths).add_(part))
    return out


def recolour(pixels: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Brightness, contrast, a bend of the tones (as a gamma) and a colour cast."""
    n = len(pixels)

    def draw(channels: int, width: float) -> Tensor:
        return torch.exp(uniform((n, channels, 1, 1), -width, width, generator) * strength)

    # gain and offset of contrast about mid-grey, brightness and cast in one pass; then a bend in place of a gamma.
    contrast = draw(1, 0.15)
    gain = contrast * draw(1, 0.25) * draw(3, 0.07) / 255
    x = torch.addcmul(0.5 - 0.5 * contrast, pixels, gain).clamp_(0, 1)
    bend = uniform((n, 1, 1, 1), -0.35, 0.35, generator) * strength
    return (x + bend * (x - x * x)).mul_(255)
