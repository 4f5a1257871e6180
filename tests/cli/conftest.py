"""A model folder with random weights in the real classes, photographs, and a way to call the command as a user does."""

import numpy as np
import pytest
from typer.testing import CliRunner

from likeness.cli import app
from likeness.faces import FaceTools
from likeness.media import write_picture
from likeness.types import Face

NOBODY, TWO_PEOPLE = (250, 10, 10), (10, 250, 10)  # the corner of a picture tells the detector below what to find


class CornerPack:
    """A detector that finds what the upper left pixel says, and a recogniser that knows people by their mean colour.

    Detection itself is tested with real networks in tests/faces; here its answers are needed, without its seconds."""

    def detect(self, picture):
        height, width = picture.shape[:2]
        corner = tuple(int(value) for value in picture[0, 0])
        if corner == NOBODY:
            return []
        template = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.55], [0.4, 0.7], [0.6, 0.7]], np.float32)
        face = Face((0.2 * width, 0.2 * height, 0.8 * width, 0.8 * height), template * (width, height), 0.9)
        right = Face((0.6 * width, 0.3 * height, 0.9 * width, 0.6 * height), template * (width / 3, height / 3), 0.8)
        return [face, right] if corner == TWO_PEOPLE else [face]

    def embed(self, picture, face):
        mean = picture.reshape(-1, 3).mean(0) + 1.0
        return (mean / np.linalg.norm(mean)).astype(np.float32)

    @staticmethod
    def similarity(a, b):
        return float(a @ b)


@pytest.fixture(autouse=True)
def quick_faces(monkeypatch, tmp_path_factory):
    import likeness.generate.studio as studio

    folder = tmp_path_factory.getbasetemp() / "faces"
    folder.mkdir(exist_ok=True)
    (folder / "pack.json").write_text("{}")
    monkeypatch.setattr(studio, "load_faces", lambda given=None: FaceTools(CornerPack(), None))
    monkeypatch.setattr(studio, "faces_folder", lambda given=None: folder)


@pytest.fixture(scope="session")
def model(random_wan_components, tmp_path_factory):
    """A folder as a user has one: 48x48 px, 5 frames, 8 a second."""
    from likeness.method import CONCAT_ID_WAN
    from likeness.pipeline import LikenessPipeline

    folder = tmp_path_factory.mktemp("models") / "random"
    sizes = {"default_num_frames": 5, "default_height": 48, "default_width": 48, "default_fps": 8}
    LikenessPipeline(**random_wan_components, method=CONCAT_ID_WAN, **sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    """Photographs by name: ann and bob have one face, both two, dog none."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    corners = {"ann": (200, 150, 90), "bob": (40, 50, 60), "both": TWO_PEOPLE, "dog": NOBODY}
    paths = {}
    for name, corner in corners.items():
        picture = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        picture[0, 0] = corner
        paths[name] = folder / f"{name}.png"
        write_picture(paths[name], picture)
    return paths


@pytest.fixture
def generate(model):
    """Runs `likeness generate` with the random model and few steps; options given again win."""

    def call(*options, **environment):
        given = ["generate", "--model", model, "--steps", 2, "--device", "cpu", *options]
        return CliRunner().invoke(app, [str(option) for option in given], env=environment)

    return call


@pytest.fixture
def files_of():
    """Name -> bytes of everything below a folder."""

    def read(folder):
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
