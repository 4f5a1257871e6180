"""A run's configuration: strict, reversible, and every recipe is one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from likeness.errors import UserError
from likeness.method import CONCAT_ID, METHODS
from likeness.recipes.training import RECIPES, recipe
from likeness.train.config import Optimization, TrainConfig, read_config


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_survives_json(name, tmp_path) -> None:
    config = recipe(name)
    assert config.recipe == name
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.to_dict()))
    assert read_config(file) == config


def test_the_recipes_have_the_published_numbers() -> None:
    """Concat-ID section 5.1; ST-DRC sections 3.3 and 4.1."""
    rates = [recipe(f"concat-id-stage{stage}").optimization for stage in (1, 2, 3)]
    assert [item.learning_rate for item in rates] == [1e-5, 5e-6, 5e-6] and {item.decay for item in rates} == {"linear"}
    first = recipe("concat-id-stage1")
    assert (first.method.text_dropout, first.method.reference_dropout, first.method.augment) == (0.1, 0.1, None)
    assert (first.data.num_frames, first.data.height, first.data.width) == (49, 480, 720)
    other = recipe("st-drc")
    assert (other.steps, other.batch_size, other.optimization.learning_rate) == (20_000, 32, 5e-5)
    loss = other.method.identity_loss
    assert loss is not None and (loss.weight, loss.temporal_weight, loss.gamma) == (0.1, 0.05, 1.0)
    assert (other.method.text_dropout, other.method.reference_dropout) == (0.05, 0.20)
    assert recipe("concat-id-try-on").method.kinds == ("face", "clothing")
    # Appendix B.2 flips clothing alone; sections 4.3 and B.2 together put noise on every reference.
    flipped = {name: recipe(name).method.flipped_kinds for name in RECIPES}
    assert {name: kinds for name, kinds in flipped.items() if kinds} == {"concat-id-try-on": ("clothing",)}
    assert recipe("concat-id-background").method.reference_noise == CONCAT_ID.reference_noise is not None


def test_values_are_set_by_their_path() -> None:
    config = recipe("tiny-st-drc").override(
        [
            "steps=7", "optimization.learning_rate=2e-5", "method.placement.cols=0", 'lora={"rank": 4}',
            "data.pairs=[\"a.json\"]", "model=somewhere", "method.identity_loss=null", "data.buckets=[[64, 96]]",
        ]
    )  # fmt: skip
    assert config.steps == 7 and config.optimization.learning_rate == 2e-5 and config.method.placement.cols == 0
    assert config.lora is not None and config.lora.rank == 4 and config.data.pairs == ("a.json",)
    assert config.model == "somewhere" and config.method.identity_loss is None and config.data.buckets == ((64, 96),)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("steps", "key=value"),
        ("stepps=3", "stepps"),
        ("optimization.rate=3", "rate"),
        ("steps=many", "steps was given as 'many'"),
        ("steps=0", "1 or more"),
        ("steps=1.5", "steps was given as 1.5"),
        (f"steps={'1' * 5000}", "steps was given as '111"),
        (f"steps={'[' * 100_000}", "it is a int"),
        ("optimization.decay=never", "decay"),
        ("optimization.learning_rate=-1", "greater than 0"),
        ('noise_levels={"std": 0}', "greater than 0"),
        ("optimization.ema_decay=1", "between 0 and 1"),
        ("data.pairs=3", "it is a list"),
        ("optimization.betas=[0.9]", "2 entries"),
        ("method.placement.gap=-1", "negative"),
        ("precision=fp8", "precision"),
        ('lora={"rank": 0}', "1 or more"),
        ("method=3", "method"),
        ("data.workers=true", "workers"),
    ],
)
def test_a_wrong_value_is_named(setting, words) -> None:
    with pytest.raises(UserError, match=words):
        recipe("tiny-st-drc").override([setting])


def test_an_unknown_recipe_or_file_says_what_there_is(tmp_path) -> None:
    with pytest.raises(UserError, match="concat-id-stage1"):
        recipe("concat-id-stage9")
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not complete"):
        read_config(tmp_path / "config.json")


def test_a_batch_is_shared_evenly_or_not_at_all() -> None:
    config = recipe("tiny-st-drc").override(["batch_size=12", "micro_batch_size=2"])
    assert config.accumulation(1) == 6 and config.accumulation(3) == 2
    with pytest.raises(UserError, match="multiple of 8"):
        config.accumulation(4)


@given(warmup=st.integers(0, 20), steps=st.integers(1, 200), decay=st.sampled_from(["linear", "cosine", "constant"]))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(warmup, steps, decay) -> None:
    settings = Optimization(warmup_steps=warmup, decay=decay)
    scales = [settings.scale(step, steps) for step in range(steps)]
    assert all(0 < scale <= 1 for scale in scales)
    rising, rest = scales[:warmup], scales[warmup:]
    assert rising == sorted(rising) and rest == sorted(rest, reverse=True)
    if rest:
        assert rest[0] == 1.0


def test_a_configuration_names_a_method_that_is_not_one_of_ours() -> None:
    values = recipe("st-drc").to_dict()
    values["method"]["name"] = "mine"
    values["method"]["placement"]["gap"] = 3
    config = TrainConfig.from_dict(values)
    assert config.method.name == "mine" and config.method.placement.gap == 3 and config.method not in METHODS.values()
