"""The handmade face pack, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade_pack import write_pack

from likeness.faces.pack import FacePack


@pytest.fixture(scope="session")
def pack_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pack(tmp_path_factory.mktemp("pack"))


@pytest.fixture(scope="session")
def pack(pack_folder: Path) -> FacePack:
    """Works on 128 px: a picture of 128 x 128 px is looked at as it is."""
    return FacePack.load(pack_folder)
