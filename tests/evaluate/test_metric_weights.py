"""Files of weights: told apart by their tensors, refused in words, and never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from likeness.errors import CheckpointError
from likeness.evaluate.networks.amt import AmtNetwork
from likeness.evaluate.networks.iresnet import IResNet
from likeness.evaluate.networks.musiq import MusiqNetwork
from likeness.evaluate.networks.raft import RaftNetwork
from likeness.evaluate.weights import (
    AESTHETIC,
    AMT,
    IR101,
    MUSIQ,
    RAFT,
    Kind,
    joined_hash,
    load_network,
    origin,
    read_state,
    recognise,
)
from likeness.media import sha256_file

BUILD: dict[str, Callable[[], nn.Module]] = {
    "IR101": lambda: IResNet((1, 1, 1, 1), (2, 2, 2, 2), 3),
    "MUSIQ": lambda: MusiqNetwork(6, 8, 2, 1),
    "RAFT": lambda: RaftNetwork(features=4, hidden=6, context=4, levels=2, radius=1),
    "AMT": lambda: AmtNetwork((8, 8, 8, 10)),
    "AESTHETIC": lambda: nn.Linear(768, 1),
}
SMALL = {name: build() for name, build in BUILD.items()}
KINDS = {"IR101": IR101, "MUSIQ": MUSIQ, "RAFT": RAFT, "AMT": AMT, "AESTHETIC": AESTHETIC}


def like(name: str) -> nn.Module:
    """Another network of the same sizes, on no device."""
    with torch.device("meta"):
        return BUILD[name]()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("layout", ["pth", "old pth", "safetensors", "wrapped", "module.", "half"])
def test_every_layout_gives_the_same_network(tmp_path: Path, name: str, layout: str) -> None:
    state, path = dict(SMALL[name].state_dict()), tmp_path / "weights.pth"
    if layout == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({key: value.clone() for key, value in state.items()}, path)
    elif layout == "wrapped":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif layout == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    elif layout == "half":
        state = {key: value.half().float() if value.is_floating_point() else value for key, value in state.items()}
        torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=layout == "pth")
    loaded = load_network(path, like(name), KINDS[name])
    assert not loaded.training
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]) and not value.is_meta and not value.requires_grad


@pytest.mark.parametrize("given", SMALL)
@pytest.mark.parametrize("wanted", SMALL)
def test_the_file_of_another_network_is_named(tmp_path: Path, given: str, wanted: str) -> None:
    path = tmp_path / "some.pth"
    torch.save(SMALL[given].state_dict(), path)
    assert recognise(read_state(path)) is KINDS[given]
    if given == wanted:
        return
    with pytest.raises(CheckpointError) as caught:
        load_network(path, like(wanted), KINDS[wanted])
    message = str(caught.value)
    assert f"is a {KINDS[given].title} file" in message
    assert f"{KINDS[wanted].option} wants {KINDS[wanted].title}: {KINDS[wanted].hint}" in message
    assert f"Give this one to {KINDS[given].option}" in message


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (("fnet.conv1.weight", "update_block.gru.convz.weight"), "RAFT-small"),
        (("feature_encoder.convnormrelu.0.weight",), "torchvision's RAFT"),
        (("visual.class_embedding", "token_embedding.weight"), "CLIP of OpenAI"),
        (("vision_model.embeddings.class_embedding",), "CLIP of transformers"),
        (("layer1.0.bn1.weight", "features.weight"), "insightface's IResNet"),
        (("layers.0.weight", "layers.7.weight", "layers.7.bias"), "LAION's aesthetic MLP"),
    ],
)
def test_files_that_lie_beside_the_right_ones_are_named(tmp_path: Path, names: tuple[str, ...], title: str) -> None:
    path = tmp_path / "beside.pth"
    torch.save({name: torch.zeros(2) for name in names}, path)
    with pytest.raises(CheckpointError, match=f"is a {title} file; --raft wants RAFT: raft-things.pth"):
        load_network(path, like("RAFT"), RAFT)


def changed(name: str, change: str) -> tuple[dict[str, Tensor], str]:
    """Tensors of a network with one of them broken, and its name."""
    state = dict(SMALL[name].state_dict())
    key = [key for key, value in state.items() if value.is_floating_point() and key not in KINDS[name].marks][-1]
    if change == "missing":
        del state[key]
    elif change == "extra":
        state[key := "something.else"] = torch.zeros(2)
    elif change == "shape":
        state[key] = torch.zeros(1, 2, 3)
    else:
        state[key] = torch.full_like(state[key], float("nan"))
    return state, key


@pytest.mark.parametrize("name", ["IR101", "MUSIQ", "RAFT", "AMT"])
@pytest.mark.parametrize(
    ("change", "words"),
    [("missing", "has no tensor"), ("extra", "has a tensor that"), ("shape", "has the shape"), ("nan", "not finite")],
)
def test_one_tensor_that_does_not_fit_is_named(tmp_path: Path, name: str, change: str, words: str) -> None:
    state, key = changed(name, change)
    path = tmp_path / "broken.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_network(path, like(name), KINDS[name])
    assert words in str(caught.value) and key in str(caught.value) and str(path) in str(caught.value)


def test_a_head_for_another_clip_is_told_by_its_shape(tmp_path: Path) -> None:
    path = tmp_path / "sa_0_4_vit_b_32_linear.pth"
    torch.save(nn.Linear(512, 1).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"weight has the shape \[1, 512\]; .* has \[1, 768\]"):
        load_network(path, like("AESTHETIC"), AESTHETIC)


class Calls:
    """Unpickled naively, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    trace, path = tmp_path / "trace", tmp_path / "evil.pth"
    torch.save({"weight": Calls(trace)}, path)
    old = tmp_path / "old.pth"
    torch.save({"weight": Calls(trace)}, old, _use_new_zipfile_serialization=False)
    for file in (path, old):
        with pytest.raises(CheckpointError, match="it could run code"):
            load_network(file, like("AESTHETIC"), AESTHETIC)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no checkpoint"),
        (b"<!doctype html><html>", "no checkpoint|more than tensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "no checkpoint|more than tensors"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, content: bytes, words: str) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"file{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            read_state(path)


def test_tables_of_other_things_are_told(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for value, words in (([1, 2], "no table"), ({}, "no table"), ({"weight": 3}, "'weight', which is not a tensor")):
        torch.save(value, path)
        with pytest.raises(CheckpointError, match=words):
            read_state(path)
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    for name, words in (("model.onnx", "is an ONNX file"), ("nowhere.pth", "There is no file")):
        with pytest.raises(CheckpointError, match=words):
            read_state(tmp_path / name)


def test_published_bytes_are_recognised_and_others_of_the_same_shape_refused(tmp_path: Path) -> None:
    path = tmp_path / "musiq.pth"
    torch.save(SMALL["MUSIQ"].state_dict(), path)
    digest = sha256_file(path)
    assert not origin(path, MUSIQ).official and origin(path, MUSIQ).weights == digest[:16]
    assert origin(path, Kind("MUSIQ", "--musiq", (), "SPAQ's", published=digest)).official
    other = Kind("MUSIQ", "--musiq", (), "SPAQ's", others={digest[:8]: "MUSIQ trained on KonIQ-10k"})
    with pytest.raises(CheckpointError, match="is MUSIQ trained on KonIQ-10k; --musiq wants MUSIQ: SPAQ's"):
        origin(path, other)
    assert MUSIQ.hint.endswith(f"{MUSIQ.published[:8]}.pth")  # the published name ends with how its hash begins


def test_joined_hash_depends_on_every_file() -> None:
    assert joined_hash(["0123456789abcdef"]) == "0123456789abcdef"
    hashes = {joined_hash(["a", "b"]), joined_hash(["b", "a"]), joined_hash(["a", "c"]), joined_hash(["a"])}
    assert len(hashes) == 4 and len(joined_hash(["a", "b"])) == 16
