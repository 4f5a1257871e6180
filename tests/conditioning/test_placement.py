from hypothesis import given
from hypothesis import strategies as st

from likeness.conditioning.placement import positions, reference_positions, video_positions
from likeness.method import CONCAT_ID, CONCAT_ID_WAN, ST_DRC, Placement
from likeness.types import LatentGrid

bits = st.integers(0, 1)
placements = st.builds(Placement, gap=bits, rows=bits, cols=bits)
grids = st.builds(LatentGrid, frames=st.integers(1, 4), height=st.integers(1, 5), width=st.integers(1, 5))


@given(placements, grids, st.integers(0, 4))
def test_no_two_tokens_share_a_position(placement: Placement, grid: LatentGrid, num_references: int) -> None:
    points = [tuple(point) for point in positions(placement, grid, num_references).tolist()]
    assert len(points) == grid.num_tokens + num_references * grid.tokens_per_frame
    assert len(set(points)) == len(points)


@given(placements, grids, st.integers(0, 3))
def test_layout_is_video_then_references(placement: Placement, grid: LatentGrid, index: int) -> None:
    points = positions(placement, grid, index + 1)
    assert points[: grid.num_tokens].equal(video_positions(grid))
    assert points[-grid.tokens_per_frame :].equal(reference_positions(placement, grid, index))


def test_published_placements() -> None:
    grid = LatentGrid(frames=5, height=3, width=4)
    # Token (h, w) = (2, 1) of the second reference: Concat-ID Eq. 2, its Wan weights, ST-DRC Eq. 4.
    token = 2 * grid.width + 1
    expected = {CONCAT_ID: [6, 2, 1], CONCAT_ID_WAN: [6, 2, 5], ST_DRC: [6, 5, 5]}
    for method, point in expected.items():
        assert reference_positions(method.placement, grid, 1)[token].tolist() == point
    assert video_positions(grid)[grid.tokens_per_frame * 2 + token].tolist() == [2, 2, 1]
