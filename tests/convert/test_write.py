"""Full disks, what is counted before writing, and how much of a checkpoint is copied in memory."""

import errno
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

from likeness.cli import app
from likeness.convert import write
from likeness.convert.keys import Piece
from likeness.convert.write import part_files, take_parts, write_tensors
from likeness.errors import UserError
from likeness.method import CONCAT_ID_WAN
from likeness.pipeline import LikenessPipeline


@pytest.fixture(scope="module")
def base(random_wan_components, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN).save_pretrained(folder)
    return folder


def no_room_for_weights(tensors, path, metadata):
    """As the library tells of a full disk: its own class, the system's error in words."""
    Path(path).write_bytes(b"half")
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def no_room_for_a_copy(source, target):
    """As shutil tells of it: under the name of the file that was read."""
    Path(target).write_bytes(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))


def no_quota(source, target):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


@pytest.mark.parametrize(
    ("place", "name", "fault"),
    [
        (write, "save_file", no_room_for_weights),
        (shutil, "copyfile", no_room_for_a_copy),
        (shutil, "copyfile", no_quota),
    ],
)
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(base, tmp_path, monkeypatch, place, name, fault) -> None:
    monkeypatch.setattr(place, name, fault)
    result = CliRunner().invoke(app, ["convert", str(base), "--method", "st-drc", "-o", str(tmp_path / "out")])
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2, result.output
    assert line.startswith("error: The disk filled up") and str(tmp_path / "out") in line and "Free some space" in line
    assert list(tmp_path.iterdir()) == []


def test_an_older_folder_survives_a_full_disk(base, tmp_path, monkeypatch) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    monkeypatch.setattr(write, "save_file", no_room_for_weights)
    options = ["--method", "st-drc", "--overwrite", "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, ["convert", str(base), *options]).exit_code == 2
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]


@pytest.mark.parametrize("links", [True, False])
def test_room_is_counted_for_what_will_be_written(base, tmp_path, monkeypatch, links) -> None:
    """Free space that is just enough, and then a little less: copies count, links do not."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *args: (_ for _ in ()).throw(OSError(errno.EXDEV, "Other device")))
    written = [path for path in part_files(base) if not links or path.suffix != ".safetensors"]
    needed = int(1.02 * (5_000_000 + sum(path.stat().st_size for path in written)))
    free = [needed]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(needed, 0, free[0]))
    take_parts(base, tmp_path / "out" / "enough", room=5_000_000)
    free[0] = needed - 1
    with pytest.raises(UserError) as told:
        take_parts(base, tmp_path / "out" / "less", room=5_000_000)
    assert f"takes {needed / 1e6:.1f} MB" in str(told.value) and str(tmp_path / "out") in str(told.value)
    first, second = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (base, tmp_path / "out" / "enough")
    )
    assert second == {path for path in first if len(path.parts) > 1 and path.parts[0] != "transformer"}


def test_own_tensors_are_written_from_where_they_lie(tmp_path, monkeypatch) -> None:
    """Views, and tensors that two parameters share, are copied; the rest is not."""
    whole, alone = torch.arange(12.0).view(6, 2), torch.ones(3)
    plan = {
        "a": ("whole", Piece("a", (0,), 3)), "b": ("whole", Piece("b", (2, 1), 3)), "c": ("alone", Piece("c")),
        "d": ("alone", Piece("d")), "e": ("turned", Piece("e")),
    }  # fmt: skip
    given: dict = {}
    save = write.save_file
    monkeypatch.setattr(
        write, "save_file", lambda tensors, *args, **more: (given.update(tensors), save(tensors, *args, **more))
    )
    write_tensors(tmp_path, {"whole": whole, "alone": alone, "turned": whole.t()}, plan)
    assert given["c"].data_ptr() == alone.data_ptr() != given["d"].data_ptr()
    found = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    expected = {"a": whole[:2], "b": torch.cat([whole[4:], whole[2:4]]), "c": alone, "d": alone, "e": whole.t()}
    assert all(found[name].equal(value) for name, value in expected.items())
    assert (tmp_path / "diffusion_pytorch_model.safetensors").stat().st_mode & 0o777 == 0o644
