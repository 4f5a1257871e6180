"""Whose face is whose, and files of known keypoints."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from likeness.errors import UserError
from likeness.train.keypoints import MIN_SIMILARITY, assign, embedding_of, read_keypoints


def test_the_best_assignment_is_not_the_greedy_one():
    # Greedy gives reference 0 face 0 (0.9) and leaves 0.3 for the other: 1.2; swapped they have 1.6.
    assert assign(np.array([[0.9, 0.8], [0.8, 0.3]])) == {0: 1, 1: 0}


def test_strangers_are_nobody():
    assert assign(np.array([[0.1, 0.6, 0.2], [0.0, 0.5, 0.1]])) == {0: 1}
    assert assign(np.array([[np.nan, np.nan], [0.1, 0.7]])) == {1: 1}
    assert assign(np.zeros((2, 0))) == {}


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**31))
def test_assignments_are_one_to_one_and_hold_the_bound(num_references, num_faces, seed):
    similarity = np.random.default_rng(seed).uniform(-0.5, 1, (num_references, num_faces))
    found = assign(similarity)
    assert len(set(found.values())) == len(found)
    assert all(similarity[r, f] >= MIN_SIMILARITY for r, f in found.items())
    left = similarity.copy()
    left[list(found)], left[:, list(found.values())] = -1, -1
    assert left.max(initial=-1) < MIN_SIMILARITY, "nobody is left over who could be matched"


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_files(tmp_path, suffix):
    points = np.random.default_rng(0).normal(size=(2, 7, 5, 2)).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    (np.savez(path, keypoints=points) if suffix == ".npz" else save_file({"keypoints": points}, path))
    np.testing.assert_array_equal(read_keypoints(path, 2), points)
    with pytest.raises(UserError, match=r"\[2, 7, 5, 2\]; for 1 references"):
        read_keypoints(path, 1)
    path.write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(UserError, match="cannot be read"):
        read_keypoints(path, 2)
    path.unlink()
    with pytest.raises(UserError, match="no file"):
        read_keypoints(path, 2)


def test_a_file_of_something_else(tmp_path):
    save_file({"boxes": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="holds no `keypoints`"):
        read_keypoints(tmp_path / "a.safetensors", 1)


def test_a_cut_out_face_keeps_its_identity(tiny_folder):
    """Blanking misleads the detector; where the cut-out lies is known."""
    from likeness.faces import load_faces
    from likeness.world.folder import draw_photograph

    faces = load_faces()
    cut_out, found = [], []
    for person in range(800_610, 800_613):
        picture = draw_photograph(person)
        np.testing.assert_array_equal(
            embedding_of(picture, faces.pack), faces.pack.embed(picture, faces.pack.detect(picture)[0])
        )
        reference = faces.reference(picture, 96, 160)
        cut_out.append(embedding_of(reference.canvas, faces.pack) @ reference.embedding)
        found.append(faces.pack.embed(reference.canvas, faces.pack.detect(reference.canvas)[0]) @ reference.embedding)
        assert embedding_of(reference.crop, faces.pack) @ reference.embedding > 0.97
    assert np.mean(cut_out) > np.mean(found)
    assert embedding_of(np.full((64, 64, 3), 90, np.uint8), faces.pack) is None
