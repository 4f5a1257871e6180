"""The benchmarks run at tiny size, compute the same thing by every way, and count what a formula says."""

import sys
from pathlib import Path

import pytest
import torch

from likeness.backbones.published import PUBLISHED, PublishedModel, meta_backbone
from likeness.method import METHODS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import flops
    import wan_step

    return flops, wan_step


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_every_way_computes_the_same(benchmarks, dtype, tolerance: float) -> None:
    _, wan_step = benchmarks
    device = torch.device("cpu")
    ways = wan_step.variants("tiny", device, dtype, compiled=False)
    first, *others = [way().float() for way in ways if way.with_reference]
    assert len(others) == 2 and first.abs().max() > 0.1
    for other in others:
        assert (first - other).abs().max() < tolerance
    # Negative control: without the reference the output is another one.
    assert (ways[-1]().float() - first).abs().max() > 1e-3

    lines = wan_step.measure(ways, device, runs=1).split("\n")
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == [way.name for way in ways]


def test_full_size_needs_a_gpu(benchmarks, monkeypatch, capsys) -> None:
    _, wan_step = benchmarks
    monkeypatch.setattr(sys, "argv", ["wan_step.py", "--size", "full", "--device", "cpu"])
    with pytest.raises(SystemExit):
        wan_step.main()
    assert "--size tiny" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["concat-id", "concat-id-wan", "st-drc"])
@pytest.mark.parametrize("references", [0, 1])
def test_operations_are_those_of_a_formula(benchmarks, monkeypatch, name: str, references: int) -> None:
    flops, _ = benchmarks
    heads, head_dim, ffn, layers, text_width, text_tokens, freq = 2, 24, 64, 3, 32, 7, 32
    small = PublishedModel(
        transformer_class="ConcatWanTransformer3DModel",
        transformer={
            "num_attention_heads": heads, "attention_head_dim": head_dim, "ffn_dim": ffn, "num_layers": layers,
            "text_dim": text_width, "freq_dim": freq,
        },
        video=(9, 32, 48),
        text_tokens=text_tokens,
        text_width=text_width,
    )  # fmt: skip
    monkeypatch.setitem(PUBLISHED, "small", small)
    method = METHODS[name]
    counted = flops.forward_flops(meta_backbone("small", method), small, method, references)

    dim, video = heads * head_dim, 3 * 2 * 3
    n = video + references * 2 * 3
    readers = n if method.reference_reads_text else video
    block = 4 * n * dim**2 + 2 * n**2 * dim  # self-attention: four matrices, scores and their use
    block += 2 * readers * dim**2 + 2 * text_tokens * dim**2 + 2 * readers * text_tokens * dim  # to the text
    block += 2 * n * dim * ffn
    ends = n * 64 * dim + n * dim * 64  # 16 channels of 1 x 2 x 2 latents a token, in and out
    embedders = freq * dim + dim**2 + 6 * dim**2 + text_tokens * (text_width * dim + dim**2)
    assert counted == 2 * (layers * block + ends + embedders)


@pytest.mark.slow
def test_the_page_has_the_counted_table(benchmarks) -> None:
    flops, _ = benchmarks
    page = (ROOT / "docs" / "performance.md").read_text("utf-8")
    for line in flops.table().split("\n"):
        assert line in page
