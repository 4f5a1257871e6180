"""Official weights into networks: opened safely, recognised by their names, loaded strictly.

A metric is only what its name says with the weights that it was published with. A file of another network is told
apart by its tensors; files of the same shape trained on something else (MUSIQ on KonIQ, RAFT on Sintel) by their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from likeness.errors import CheckpointError
from likeness.media import sha256_bytes, sha256_file
from likeness.tensorfile import read_tensor_file

HASH_DIGITS = 16

_WRAPPERS = ("state_dict", "params", "model", "module")
_PREFIX = "module."  # what torch.nn.DataParallel puts before every name
_SHOWN = 3  # names in a message

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Kind:
    """A network whose files can be recognised.

    Attributes:
        title: what it is called in a message.
        option: what takes its file on the command line; "" for networks that no metric uses.
        marks: names of tensors that only its files have, all of them.
        hint: the published file, in words.
        published: SHA-256 of the published file; "" where nobody has published it.
        others: files of the same shape that are trained on something else: how their SHA-256 begins, and what they are.
    """

    title: str
    option: str
    marks: tuple[str, ...]
    hint: str = ""
    published: str = ""
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes:
        weights: the first 16 hex digits of the file's SHA-256.
        official: whether these are the published bytes.
    """

    weights: str
    official: bool


IR101 = Kind(
    "CurricularFace IR-101",
    "--curricular",
    ("input_layer.0.weight", "body.0.res_layer.1.weight", "output_layer.3.weight"),
    "glint360k_curricular_face_r101_backbone.bin",
)
MUSIQ = Kind(
    "MUSIQ",
    "--musiq",
    ("conv_root.weight", "transformer_encoder.cls"),
    "pyiqa's musiq_spaq_ckpt-358bb6af.pth",
    "358bb6af275e28ea56821d44fb55c6cb83645db11f394d3ad65b2d149965ab50",
    {
        "e95806b9": "MUSIQ trained on KonIQ-10k",
        "e8d3f067": "MUSIQ trained on AVA",
        "364c0c84": "MUSIQ trained on PaQ-2-PiQ",
    },
)
RAFT = Kind(
    "RAFT",
    "--raft",
    ("fnet.conv1.weight", "update_block.gru.convz1.weight"),
    "raft-things.pth",
    "fcfa4125d6418f4de95d84aec20a3c5f4e205101715a79f193243c186ac9a7e1",
)
AMT = Kind(
    "AMT-S",
    "--amt",
    ("feat_encoder.conv1.weight", "decoder1.convblock.0.0.weight", "update4.convc1.weight"),
    "amt-s.pth",
    "07e7e03405c213fe4405678db9b42d05671e48c56faf6a441b99bb0047d3cf77",
)
VICLIP = Kind(
    "ViCLIP",
    "--viclip",
    ("vision_encoder.temporal_positional_embedding", "text_encoder.text_projection"),
    "ViClip-InternVid-10M-FLT.pth",
    "7a4d6ad6eac6632db3693f4b97f9f8f6445b65b1e139a6fc6686150522238c56",
)
AESTHETIC = Kind(
    "linear head",
    "--aesthetic",
    ("weight", "bias"),
    "LAION's sa_0_4_vit_l_14_linear.pth",
    "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
)

# The more particular first. Those without an option are files that people have beside the right ones.
KINDS = (
    IR101,
    MUSIQ,
    RAFT,
    Kind("RAFT-small", "", ("fnet.conv1.weight", "update_block.gru.convz.weight")),
    Kind("torchvision's RAFT", "", ("feature_encoder.convnormrelu.0.weight",)),
    AMT,
    VICLIP,
    Kind("CLIP of transformers", "", ("vision_model.embeddings.class_embedding",)),
    Kind("CLIP of OpenAI", "", ("visual.class_embedding", "token_embedding.weight")),
    Kind("insightface's IResNet", "", ("layer1.0.bn1.weight", "features.weight")),
    Kind("LAION's aesthetic MLP", "", ("layers.0.weight", "layers.7.weight")),
    AESTHETIC,
)


def open_network(
    path: str | Path, build: Callable[[], Network], kind: Kind, device: str = "cpu"
) -> tuple[Network, Origin]:
    """A network with the tensors of a file on a device, see :func:`load_network`, and whose they are.

    Raises:
        CheckpointError: see :func:`load_network` and :func:`origin`.
    """
    path = Path(path)
    with torch.device("meta"):
        network = build()
    load_network(path, network, kind)
    return network.to(device), origin(path, kind)


def load_network(path: Path, network: Network, kind: Kind) -> Network:
    """Fill a network with the tensors of a file, every one of them and nothing else, and freeze it.

    Args:
        path: ``.safetensors`` or what ``torch.save`` wrote.
        network: on any device, the meta device included.
        kind: what the file must be of.

    Returns:
        The network, in float32 on the CPU, in evaluation mode, without gradients.

    Raises:
        CheckpointError: a file that is broken or of another network, or a tensor that is missing, extra, of another
            shape or not finite, by name.
    """
    state = read_state(path)
    _check_kind(path, state, kind)
    _check_tensors(path, state, network, kind)
    network.load_state_dict({name: _as_stored(value) for name, value in state.items()}, assign=True)
    return network.eval().requires_grad_(False)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by their authors' names, out of what wraps them and without ``module.`` before the names.

    Raises:
        CheckpointError: a file that is missing or broken, or that holds something else than one table of tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}; a .safetensors file or one of torch.save is needed.")
    if path.suffix == ".onnx":
        raise CheckpointError(f"{path} is an ONNX file; a .safetensors file or one of torch.save is needed.")
    state = read_tensor_file(path)
    while isinstance(state, dict) and (
        name := next((key for key in _WRAPPERS if isinstance(state.get(key), dict)), None)
    ):
        state = state[name]
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds no table of tensors; give a file of a model's weights.")
    if others := [str(key) for key, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{path} holds {others[0]!r}, which is not a tensor; give a file of a model's weights.")
    if all(key.startswith(_PREFIX) for key in state):
        state = {key.removeprefix(_PREFIX): value for key, value in state.items()}
    return state


def recognise(state: Mapping[str, Tensor]) -> Kind | None:
    """Which network tensors are of, by their names."""
    for kind in KINDS:
        if kind is AESTHETIC:
            if set(state) == set(kind.marks):
                return kind
        elif all(mark in state for mark in kind.marks):
            return kind
    return None


def origin(path: Path, kind: Kind) -> Origin:
    """Whose weights a file holds, by its bytes.

    Raises:
        CheckpointError: published weights of the same network that were trained on something else.
    """
    digest = sha256_file(path)
    for start, title in kind.others.items():
        if digest.startswith(start):
            raise CheckpointError(f"{path} is {title}; {_wanted(kind)}")
    return Origin(digest[:HASH_DIGITS], digest == kind.published)


def joined_hash(digests: Sequence[str]) -> str:
    """One hash for several files: theirs where there is one, else 16 hex digits that change with any of them."""
    return digests[0] if len(digests) == 1 else sha256_bytes("\n".join(digests).encode())[:HASH_DIGITS]


def _check_kind(path: Path, state: Mapping[str, Tensor], kind: Kind) -> None:
    found = recognise(state)
    if found is not None and found.title == kind.title:
        return
    if found is None:
        if any(name in state for name in kind.marks):
            return  # a broken file of the right kind: its tensors are named one by one
        raise CheckpointError(
            f"{path} is of no network known here: its tensors are named {_listed(sorted(state))}. {_wanted(kind)}"
        )
    other = f" Give this one to {found.option}." if found.option else ""
    raise CheckpointError(f"{path} is a {found.title} file; {_wanted(kind)}{other}")


def _check_tensors(path: Path, state: Mapping[str, Tensor], network: nn.Module, kind: Kind) -> None:
    wanted = network.state_dict()
    whole = _wanted(kind)
    if missing := [name for name in wanted if name not in state]:
        raise CheckpointError(f"{path} has no tensor {_listed(missing)}. {whole}")
    if extra := [name for name in state if name not in wanted]:
        raise CheckpointError(f"{path} has a tensor that {kind.title} does not: {_listed(extra)}. {whole}")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            raise CheckpointError(
                f"{path}: {name} has the shape {list(value.shape)}; {kind.title} has {list(wanted[name].shape)}. {whole}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite. Fetch the file again.")


def _wanted(kind: Kind) -> str:
    return f"{kind.option} wants {kind.title}: {kind.hint}."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _as_stored(value: Tensor) -> Tensor:
    """Floats as float32 (files may be in half precision), counts as they are."""
    return value.float() if value.is_floating_point() else value
