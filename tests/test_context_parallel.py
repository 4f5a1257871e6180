"""Ulysses context parallel: two processes on a CPU make the video that one makes."""

import os
import socket
from pathlib import Path

import pytest
import torch
from diffusers import ContextParallelConfig
from diffusers.hooks import context_parallel

from likeness.backbones.wan import ConcatWanTransformer3DModel
from likeness.method import METHODS

WORLD = 2
# Video tokens, references and their tokens: the second process's share begins inside the video, on the references'
# boundary, or past it; an odd number of tokens leaves it one fewer.
CASES = {
    "one reference, inside the video": ("concat-id-wan", (3, 8, 8), 1, False),
    "two references, inside the video": ("concat-id", (1, 8, 8), 2, False),
    "shares meet where the references begin": ("concat-id-wan", (1, 8, 8), 1, False),
    "a share of references alone": ("concat-id-wan", (1, 8, 8), 3, False),
    "separate modulation": ("concat-id-wan-adaln", (2, 8, 8), 1, False),
    "an odd number of tokens": ("concat-id-wan", (2, 6, 6), 1, True),
    "an odd number, a clean timestep": ("st-drc", (2, 2, 6), 3, True),
    "no reference": ("st-drc", (2, 8, 8), 0, False),
}
CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "freq_dim": 32,
    "ffn_dim": 64,
    "num_layers": 2,
}


def prediction(case: str, config: ContextParallelConfig | None = None) -> torch.Tensor:
    """The same weights and inputs in every process; [1, 4, T, H, W]."""
    name, size, num_references, _ = CASES[case]
    method = METHODS[name]
    torch.manual_seed(0)
    transformer = ConcatWanTransformer3DModel(**CONFIG, reference_modulation=method.reference_modulation).eval()
    latents, text = torch.randn(1, 4, *size), torch.randn(1, 5, CONFIG["text_dim"])
    references = tuple(torch.randn(1, 4, 1, *size[1:]) for _ in range(num_references))
    if config is not None:
        transformer.enable_parallelism(config=config)
    with torch.no_grad():
        return transformer(
            latents,
            torch.tensor([500.0]),
            text,
            references=references,
            placement=method.placement,
            reference_reads_text=method.reference_reads_text,
            reference_timestep="clean" if name == "st-drc" else method.reference_timestep,
            return_dict=False,
        )[0]


def _gather_by_objects(tensor: torch.Tensor, dim: int, group: torch.distributed.ProcessGroup) -> torch.Tensor:
    """In place of diffusers' gathering of unequal shares, which NCCL does and gloo does not."""
    shares: list = [None] * WORLD
    torch.distributed.all_gather_object(shares, tensor, group=group)
    return torch.cat(shares, dim=dim)


def _process(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(WORLD))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    # diffusers numbers the process's accelerator by this, which is 0 where there is none.
    torch.accelerator.device_count = lambda: 1
    context_parallel._all_gather_anything = _gather_by_objects
    made = {}
    for case, (*_, anything) in CASES.items():
        made[case] = prediction(case, ContextParallelConfig(ulysses_degree=WORLD, ulysses_anything=anything))
    torch.save(made, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def parallel(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("parallel")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(parallel, case) -> None:
    alone = prediction(case)
    for made in parallel:
        assert (made[case] - alone).abs().max() <= 1e-5


@pytest.mark.parametrize("num_video_tokens", [1, 7, 12, 13])
@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_boundaries_are_where_the_sequence_is_cut(monkeypatch, num_video_tokens, ranks) -> None:
    """Of each process's share as torch.tensor_split makes it, the part that is the video's."""
    from types import SimpleNamespace

    tokens = torch.arange(13)
    mesh = SimpleNamespace(size=lambda: ranks, get_group=lambda: None)
    transformer = ConcatWanTransformer3DModel(**{**CONFIG, "num_layers": 1})
    transformer._parallel_config = SimpleNamespace(context_parallel_config=SimpleNamespace(_flattened_mesh=mesh))
    for rank, share in enumerate(tokens.tensor_split(ranks)):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda group, rank=rank: rank)
        assert transformer._local_boundary(num_video_tokens, 13) == (share < num_video_tokens).sum().item()


@pytest.mark.parametrize("family", ["cogvideox", "ltx2"])
def test_the_others_have_no_plan(request, family) -> None:
    """Without one diffusers refuses to cut the sequence."""
    transformer = request.getfixturevalue(f"random_{family}_components")["transformer"]
    assert transformer._cp_plan is None
    if family == "cogvideox":  # nor would its attention ask
        assert not any(hasattr(block.attn1.processor, "_parallel_config") for block in transformer.transformer_blocks)
