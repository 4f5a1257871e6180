"""Seconds a forward pass of Wan with a reference, by attention kernel, beside diffusers and the published script's way.

`python benchmarks/wan_step.py` on CUDA: Wan-1.3B with random weights, 81 x 480 x 832, one reference, bfloat16.
`python benchmarks/wan_step.py --size tiny` anywhere, in seconds. Variants run alternately in one process; the median of
the runs counts. A GPU is timed by CUDA events with its peak of memory, a CPU by process time.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from diffusers import WanTransformer3DModel
from published_way import published_forward
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from likeness.backbones.published import PUBLISHED
from likeness.backbones.wan_transformer import ConcatWanTransformer3DModel
from likeness.method import CONCAT_ID_WAN

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}
# Latents [C, T, H, W] and tokens of the text.
SIZES = {"full": ((16, 21, 60, 104), 512), "tiny": ((16, 3, 8, 8), 12)}


@dataclass(frozen=True)
class Variant:
    """A way to compute a prediction.

    Attributes:
        name: in the table.
        forward: computes it.
        backends: kernels of attention that are allowed; None for torch's choice.
        with_reference: whether its output is comparable with that of the first variant.
    """

    name: str
    forward: Callable[[], Tensor]
    backends: tuple[SDPBackend, ...] | None = None
    with_reference: bool = True

    def kernels(self) -> AbstractContextManager[None]:
        return nullcontext() if self.backends is None else sdpa_kernel(list(self.backends))

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with self.kernels():
            return self.forward()


def variants(size: str, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> list[Variant]:
    """All ways, on the same random weights and inputs."""
    torch.manual_seed(0)
    settings = TINY if size == "tiny" else dict(PUBLISHED["wan2.1-1.3b"].transformer)
    with device:
        base = WanTransformer3DModel(**settings).eval().requires_grad_(False)
    for name, parameter in base.named_parameters():
        if not any(kept in name for kept in base._keep_in_fp32_modules):  # as from_pretrained leaves them
            parameter.data = parameter.data.to(dtype)
    model = ConcatWanTransformer3DModel.from_base(base)
    (channels, *sizes), tokens = SIZES[size]
    latents = torch.randn(1, channels, *sizes, device=device, dtype=dtype)
    reference = torch.randn(1, channels, 1, *sizes[1:], device=device, dtype=dtype)
    text = torch.randn(1, tokens, base.config.text_dim, device=device, dtype=dtype)
    timestep = torch.full((1,), 723.0, device=device)

    def ours(transformer: ConcatWanTransformer3DModel) -> Tensor:
        return transformer(
            latents,
            timestep,
            text,
            return_dict=False,
            references=(reference,),
            placement=CONCAT_ID_WAN.placement,
            reference_reads_text=CONCAT_ID_WAN.reference_reads_text,
        )[0]

    plain = partial(ours, model)
    fused = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
    found = [
        # The scores of one layer take 28 GB at full size in bfloat16: where they do not fit, the table says so.
        Variant("naive attention", plain, (SDPBackend.MATH,)),
        Variant("flash or efficient attention", plain, fused if device.type == "cpu" else fused[:2]),
    ]
    if device.type == "cuda":
        found.append(Variant("cuDNN attention", plain, (SDPBackend.CUDNN_ATTENTION,)))
    if compiled:
        repeated = ConcatWanTransformer3DModel.from_base(base)
        repeated.compile_repeated_blocks()
        best = found[-1].backends
        found.append(Variant("+ compiled blocks", partial(ours, repeated), best))
    published = partial(published_forward, model, latents, reference, timestep, text)
    found.append(Variant("published script's way", published, found[1].backends))
    found.append(
        Variant(
            "diffusers, no reference",
            lambda: base(latents, timestep, text, return_dict=False)[0],
            found[1].backends,
            with_reference=False,
        )
    )
    return found


def seconds(variant: Variant, device: torch.device) -> float:
    """Of one run: CUDA events on a GPU, process time on a CPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        variant()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    begun = time.process_time()
    variant()
    return time.process_time() - begun


def measure(ways: list[Variant], device: torch.device, runs: int) -> str:
    """The table in Markdown: median seconds, times the first way's, peak GiB, largest difference from the first's output."""
    outputs, peaks, kept = {}, {}, []
    for variant in ways:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            outputs[variant.name] = variant().float()  # compiles and warms up
        except torch.cuda.OutOfMemoryError:
            continue
        kept.append(variant)
        peaks[variant.name] = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}" if device.type == "cuda" else "-"
    times: dict[str, list[float]] = {variant.name: [] for variant in kept}
    for _ in range(runs):
        for variant in kept:
            times[variant.name].append(seconds(variant, device))
    median = {name: statistics.median(values) for name, values in times.items()}
    first = kept[0]
    lines = [
        f"| way | s a forward | speed-up on {first.name} | peak GiB | largest difference |",
        "|---|---|---|---|---|",
    ]
    for variant in ways:
        if variant not in kept:
            lines.append(f"| {variant.name} | out of memory | | | |")
            continue
        name, apart = variant.name, "-"
        if variant.with_reference:
            apart = f"{(outputs[name] - outputs[first.name]).abs().max().item():.1e}"
        lines.append(
            f"| {name} | {median[name]:.4f} | {median[first.name] / median[name]:.2f} | {peaks[name]} | {apart} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the machine and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--no-compile", action="store_true", help="leave out compiled blocks, which take a minute")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if arguments.size == "full" and device.type != "cuda":
        parser.error("the full size needs a CUDA device; add --size tiny to try the script without one")
    dtype = torch.bfloat16 if arguments.size == "full" else torch.float32
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}, {arguments.size} size, median "
        f"of {arguments.runs}\n"
    )
    print(measure(variants(arguments.size, device, dtype, compiled=not arguments.no_compile), device, arguments.runs))


if __name__ == "__main__":
    main()
