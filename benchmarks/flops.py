"""TFLOP of a forward pass and of a step, by model and method: `python benchmarks/flops.py`, without weights or a GPU.

Counted on the "meta" device at the size that each model was published for, attention included; a multiplication and an
addition are two operations. Prints the table of docs/performance.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch.utils.flop_counter import FlopCounterMode

from likeness.backbones.base import Backbone
from likeness.backbones.published import PUBLISHED, PublishedModel, meta_backbone
from likeness.conditioning.sequence import drop, join
from likeness.errors import UserError
from likeness.method import METHODS, Method

HEADER = (
    "| model | size | method | without | with 1 reference | | streams | a step | references in all streams |",
    "|---|---|---|---|---|---|---|---|---|",
)


def forward_flops(backbone: Backbone, published: PublishedModel, method: Method, num_references: int) -> int:
    """Operations of one prediction with references, on the device "meta"."""
    return _count(backbone, published, method, num_references, dropped=False)


def _count(backbone: Backbone, published: PublishedModel, method: Method, num_references: int, *, dropped: bool) -> int:
    channels, *sizes = backbone.spec.latent_shape(*published.video)
    video = torch.empty(1, channels, *sizes, device="meta")
    sequence = join(method, video, [torch.empty(1, channels, 1, *sizes[1:], device="meta")] * num_references)
    if dropped:
        sequence = drop(method, sequence, True)
    text = torch.empty(1, published.text_tokens, published.text_width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone.predict(sequence, torch.ones(1, device="meta"), text)
    return counter.get_total_flops()


def row(name: str, method: Method) -> str | None:
    """A line of the table; None if the model cannot express the method."""
    published = PUBLISHED[name]
    try:
        backbone = meta_backbone(name, method)
    except UserError:
        return None
    without = forward_flops(backbone, published, method, 0)
    full = forward_flops(backbone, published, method, 1)
    dropped = _count(backbone, published, method, 1, dropped=True)
    streams = method.guidance.streams()
    step = sum(full if stream.reference else dropped for stream in streams)
    frames, height, width = published.video
    everywhere = f"{len(streams) * full / 1e12:.0f} ({(len(streams) * full / step - 1) * 100:+.1f} %)"
    return (
        f"| {name} | {frames}x{height}x{width} | {method.name} | {without / 1e12:.1f} | {full / 1e12:.1f} | "
        f"{(full / without - 1) * 100:+.1f} % | {len(streams)} | {step / 1e12:.0f} | {everywhere} |"
    )


def table(names: Iterable[str] = PUBLISHED, methods: Iterable[str] = METHODS) -> str:
    """The table in Markdown."""
    rows = [row(name, METHODS[method]) for name in names for method in methods]
    return "\n".join([*HEADER, *(line for line in rows if line is not None)])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", choices=list(PUBLISHED))
    parser.add_argument("--method", action="append", choices=list(METHODS))
    arguments = parser.parse_args()
    print(table(arguments.model or PUBLISHED, arguments.method or METHODS))


if __name__ == "__main__":
    main()
