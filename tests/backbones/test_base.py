import pytest

from likeness.backbones.base import BackboneSpec
from likeness.diffusion import RectifiedFlow
from likeness.errors import UserError
from likeness.types import LatentGrid

SPEC = BackboneSpec(
    name="Wan", spatial_stride=8, temporal_stride=4, patch=(1, 2, 2), latent_channels=16, process=RectifiedFlow()
)


def test_sizes_of_wan() -> None:
    assert SPEC.latent_shape(81, 480, 832) == (16, 21, 60, 104)
    assert SPEC.grid(81, 480, 832) == LatentGrid(21, 30, 52)
    assert SPEC.grid(81, 480, 832).num_tokens == 32760
    assert SPEC.latent_shape(1, 16, 16) == (16, 1, 2, 2)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((80, 480, 832), "80 frames .* 77 or 81"),
        ((0, 480, 832), "0 frames .* use 1"),
        ((-4, 480, 832), "use 1"),
        ((81, 481, 832), "height of 481 px .* multiple of 16: use 480 or 496"),
        ((81, 480, 8), "width of 8 px .* use 16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_the_nearest_that_do(size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SPEC.check_size(*size)
