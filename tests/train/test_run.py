"""The loop: it learns, stops, goes on to the same bits, and is the same however many processes share it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import made_up_run
import pytest
import torch
from made_up_run import STEPS, Sharded, Zero
from safetensors.torch import load_file, save_file

from likeness.errors import UserError
from likeness.pipeline import LikenessPipeline
from likeness.train import checkpoint, run
from likeness.train.parallel import run_parallel


@pytest.fixture(scope="module")
def model(random_wan_components, tmp_path_factory) -> Path:
    from likeness.method import CONCAT_ID

    folder = tmp_path_factory.mktemp("model")
    LikenessPipeline(
        **random_wan_components,
        method=CONCAT_ID,
        default_num_frames=5,
        default_height=32,
        default_width=32,
        default_fps=8,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(run, "open_parts", made_up_run.open_parts)


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    _in_another_process(folder, model).wait()
    assert (folder / "model" / "model_index.json").exists()
    return folder


def _in_another_process(folder: Path, model: Path, *settings: str) -> subprocess.Popen:
    script = Path(made_up_run.__file__)
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, script, folder, model, *settings],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def _weights(folder: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(folder)
    assert found is not None
    return load_file(found / f"{name}.safetensors")


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_leaves_weights_log_and_a_model_that_generates(undisturbed, model) -> None:
    assert [path.name for path in sorted(undisturbed.glob("checkpoints/*"))] == ["step-00000004", "step-00000006"]
    rows = [json.loads(line) for line in (undisturbed / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6] and rows[0]["learning_rate"] > rows[1]["learning_rate"] > 0
    before = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    after = _weights(undisturbed)
    assert {name.removeprefix("transformer.") for name in after} == before.keys()
    assert any(not torch.equal(after[f"transformer.{name}"], value) for name, value in before.items())
    pipeline = LikenessPipeline.from_pretrained(undisturbed / "model")
    assert pipeline.method.name == "made-up"
    kept = _weights(undisturbed, "average")["transformer.blocks.0.ffn.net.2.weight"]
    assert torch.equal(pipeline.transformer.blocks[0].ffn.net[2].weight, kept.to(torch.bfloat16).float())
    # Whoever may read the log may read the weights.
    written = [*undisturbed.glob("checkpoints/*/*.safetensors"), *undisturbed.glob("model/transformer/*.safetensors")]
    assert {path.stat().st_mode for path in written} == {(undisturbed / "log.jsonl").stat().st_mode}
    assert json.loads((undisturbed / "model" / "training.json").read_text())["steps"] == STEPS
    assert (undisturbed / "curves.png").exists()


def test_killed_three_times_a_run_ends_in_the_same_bits_and_the_same_log(undisturbed, model, tmp_path) -> None:
    folder = tmp_path / "run"
    for kill in range(3):
        process = _in_another_process(folder, model)
        before = checkpoint.latest(folder)
        deadline = time.time() + 120
        while checkpoint.latest(folder) == before and process.poll() is None and time.time() < deadline:
            time.sleep(0.01)
        time.sleep(0.03 * kill)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert _in_another_process(folder, model).wait() == 0
    for name in ("weights", "average"):
        assert _same(_weights(folder, name), _weights(undisturbed, name))
    assert (folder / "log.jsonl").read_bytes() == (undisturbed / "log.jsonl").read_bytes()


def test_asked_to_stop_a_run_saves_and_goes_on(undisturbed, model, tmp_path) -> None:
    folder = tmp_path / "run"

    def ask(step, steps, values) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(run.Stopped, match="step 3 of 6"):
        run.Trainer(made_up_run.config_of(model), folder, ask).run()
    found = checkpoint.latest(folder)
    assert found is not None and found.name == "step-00000003"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    made_up_run.start(run.Trainer, folder, model)
    assert _same(_weights(folder), _weights(undisturbed))


needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed"
)


@pytest.mark.parametrize(
    "trainer",
    [run.Trainer, Sharded, pytest.param(Zero, marks=needs_deepspeed)],
    ids=["DDP", "FSDP2", "ZeRO"],
)
def test_two_processes_train_as_one(trainer, undisturbed, model, tmp_path) -> None:
    """Two processes of two pairs each take one micro-batch where one process accumulates two."""
    folder = tmp_path / "run"
    settings = ("batch_size=4", "micro_batch_size=2")
    run_parallel(made_up_run.share, 2, trainer, folder, model, *settings)
    alone = tmp_path / "alone"
    made_up_run.start(run.Trainer, alone, model, "batch_size=4", "micro_batch_size=4")
    one, two = _weights(alone), _weights(folder)
    assert one.keys() == two.keys()
    start = load_file(model / "transformer" / "diffusion_pytorch_model.safetensors")
    moved = max((value - start[name.removeprefix("transformer.")]).abs().max() for name, value in one.items())
    apart = max((value - two[name]).abs().max() for name, value in one.items())
    assert apart < 0.02 * moved  # AdamW's first steps make signs of rounding errors


@needs_deepspeed
def test_a_run_under_zero_goes_on_to_the_same_bits(model, tmp_path) -> None:
    for name in ("whole", "stopped"):
        run_parallel(made_up_run.share, 2, Zero, tmp_path / name, model)
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "stopped" / "model")
    run_parallel(made_up_run.share, 2, Zero, tmp_path / "stopped", model)
    assert _same(_weights(tmp_path / "stopped"), _weights(tmp_path / "whole"))
    assert _same(_weights(tmp_path / "stopped", "average"), _weights(tmp_path / "whole", "average"))


def test_a_sharded_run_goes_on_alone(model, tmp_path) -> None:
    """Its checkpoint is whole, so that another number of processes can go on from it."""
    folder = tmp_path / "run"
    run_parallel(made_up_run.share, 2, Sharded, folder, model, "steps=6", "checkpoint_every=6")
    found = checkpoint.latest(folder)
    assert found is not None
    state = torch.load(found / "optimizer.pt", weights_only=True)
    shapes = {name: value["exp_avg"].shape for name, value in state["state"].items()}
    assert shapes == {name: value.shape for name, value in _weights(folder).items()}


def test_lora_trains_adapters_alone_and_leaves_them_for_diffusers(model, tmp_path) -> None:
    folder = tmp_path / "run"
    made_up_run.start(run.Trainer, folder, model, 'lora={"rank": 2, "alpha": 6}', "optimization.ema_decay=null")
    assert all("lora_" in name for name in _weights(folder))
    adapter = load_file(folder / "model" / "pytorch_lora_weights.safetensors")
    assert {name.split(".")[-2] for name in adapter} == {"lora_A", "lora_B"}
    assert all(name.startswith("transformer.blocks.") for name in adapter)

    merged = LikenessPipeline.from_pretrained(folder / "model")
    loaded = LikenessPipeline.from_pretrained(model)
    before = {name: value.clone() for name, value in loaded.transformer.state_dict().items()}
    loaded.load_lora_weights(folder / "model")
    loaded.fuse_lora()
    loaded.unload_lora_weights()
    for name, value in merged.transformer.state_dict().items():
        assert torch.allclose(value, loaded.transformer.state_dict()[name], atol=1e-6)
    trained = _weights(folder)  # of the checkpoint, whose scale is alpha / rank = 3
    layer = "blocks.0.attn1.to_q"
    up, down = (next(v for n, v in trained.items() if f"{layer}.lora_{side}" in n) for side in "BA")
    change = merged.transformer.get_submodule(layer).weight - before[f"{layer}.weight"]
    assert torch.allclose(change, 3 * up @ down, atol=2e-2 * float((3 * up @ down).abs().max()))


def test_a_compiled_or_recomputed_run_changes_nothing(undisturbed, model, tmp_path) -> None:
    made_up_run.start(run.Trainer, tmp_path / "run", model, "gradient_checkpointing=true")
    one, other = _weights(tmp_path / "run"), _weights(undisturbed)
    assert all(torch.allclose(value, other[name], atol=1e-6) for name, value in one.items())


def test_a_folder_of_another_run_is_left_alone(undisturbed, model, tmp_path) -> None:
    with pytest.raises(UserError, match="seed differ"):
        made_up_run.start(run.Trainer, undisturbed, model, "seed=1")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        made_up_run.start(run.Trainer, tmp_path, model)


def test_a_run_that_never_came_to_a_checkpoint_does_not_keep_its_folder(model, tmp_path, monkeypatch) -> None:
    """Otherwise a misspelt name of the data would cost the folder."""

    def missing(*_):
        raise UserError("pairs.json is missing.")

    with monkeypatch.context() as broken, pytest.raises(UserError, match="missing"):
        broken.setattr(run, "open_parts", missing)
        run.Trainer(made_up_run.config_of(model, "seed=1"), tmp_path / "run").run()
    made = run.Trainer(made_up_run.config_of(model, "steps=2"), tmp_path / "run").run()
    for written in (made / "training.json", tmp_path / "run" / "config.json"):
        assert json.loads(written.read_text())["seed"] == 0


def test_a_full_disk_leaves_the_last_checkpoint(model, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "run"
    real, calls = torch.save, []

    def full(value, path, *rest) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        real(value, path, *rest)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(UserError, match="Make room"):
        made_up_run.start(run.Trainer, folder, model)
    assert [path.name for path in folder.glob("checkpoints/*")] == ["step-00000002"]
    monkeypatch.undo()


def test_too_little_memory_says_what_to_lower(model, tmp_path, monkeypatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(run.Objective, "forward", out_of_memory)
    with pytest.raises(UserError, match=r"micro_batch_size \(now 2\); gradient_checkpointing=true"):
        run.Trainer(made_up_run.config_of(model), tmp_path / "run").run()


def test_a_loss_that_is_not_a_number_ends_the_run_before_it_is_kept(model, tmp_path) -> None:
    with pytest.raises(UserError, match="learning_rate"):
        made_up_run.start(run.Trainer, tmp_path / "run", model, "optimization.learning_rate=1e30", "checkpoint_every=1")
    weights = _weights(tmp_path / "run")
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.parametrize("change", ["name", "shape"])
def test_a_checkpoint_of_another_model_is_refused(change, undisturbed, model, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    weights, name = _weights(folder), "transformer.blocks.0.ffn.net.2.weight"
    value = weights.pop(name)
    name, value = ("transformer.blocks.99.weight", value) if change == "name" else (name, value[:-1].contiguous())
    found = checkpoint.latest(folder)
    assert found is not None
    save_file({**weights, name: value}, found / "weights.safetensors")
    with pytest.raises(UserError, match=f"is of another model: {name} does not fit"):
        made_up_run.start(run.Trainer, folder, model)


def test_a_broken_checkpoint_is_named(undisturbed, model, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(undisturbed, folder)
    found = checkpoint.latest(folder)
    assert found is not None
    (found / "weights.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="Remove this folder to go on from the checkpoint before it"):
        made_up_run.start(run.Trainer, folder, model)
