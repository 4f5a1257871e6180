"""Data-parallel training on CPU cores: one single-threaded process a core.

Many threads in one process wait for each other at every small operation; on a shared machine that costs an order of
magnitude. One process a core with gradients averaged over gloo does not.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def run_parallel(work: Callable[..., None], processes: int, *arguments: object) -> None:
    """Call `work(rank, processes, *arguments)` in that many processes and wait for all of them.

    SIGTERM and SIGINT reach each of them as SIGTERM, once.

    Raises:
        SystemExit: with the exit code of a process that exited with one.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context: Any = mp.spawn(_start, (processes, port, work, arguments), nprocs=processes, join=False)

    def forward(number: int, frame: Any) -> None:
        for process in context.processes:
            process.terminate()

    kept = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not context.join():
            pass
    except mp.ProcessExitedException as error:
        sys.exit(error.exit_code)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _start(rank: int, processes: int, port: int, work: Callable[..., None], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all of them; the parent passes it on
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        OMP_NUM_THREADS="1",  # or accelerate would share out the cores
    )
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    try:
        work(rank, processes, *arguments)
    finally:
        if dist.is_initialized():  # accelerate may have ended it
            dist.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one transfer."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, averaged in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(averaged.view_as(gradient))


def agreed(value: float) -> float:
    """Rank 0's value, on every process: what a decision by the clock needs."""
    if not dist.is_initialized():
        return value
    box = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(box, 0)
    return float(box)
