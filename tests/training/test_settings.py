"""Settings: through TOML and back, and the schedule and budget that follow from them."""

from __future__ import annotations

import dataclasses
import math
import tomllib

import pytest
import tomli_w

from regard.errors import UserError
from regard.training import TrainingSettings, from_table, to_table
from regard.training.schedule import Budget, learning_rate


@pytest.mark.parametrize(
    "settings",
    [
        TrainingSettings(),
        TrainingSettings(steps=5, seconds=1.5, betas=(0.5, 0.6), clip=None, checkpoint_seconds=None),
        TrainingSettings(epochs=3, patience=2, schedule="cosine", precision="bfloat16", tensorboard=True),
    ],
)
def test_settings_are_read_back_from_toml_as_written(settings: TrainingSettings) -> None:
    table = tomllib.loads(tomli_w.dumps(to_table(settings)))
    assert from_table(TrainingSettings, table, "here") == settings


def test_every_setting_is_documented() -> None:
    import inspect

    source = inspect.getsource(TrainingSettings)
    for field in dataclasses.fields(TrainingSettings):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stepps": 3}, "config.toml: there is no setting 'stepps'; did you mean 'steps'"),
        ({"steps": "many"}, "config.toml: steps is 'many'; a value of type int is expected"),
        ({"steps": True}, "steps is True; a value of type int"),
        ({"steps": 0}, "config.toml: steps is 0; a number above 0"),
        ({"schedule": "cosin"}, "schedule is 'cosin'; one of 'inverse_sqrt', 'cosine'"),
        ({"betas": [0.9]}, "betas has 1 values; 2 are expected"),
        ({"betas": [0.9, 1.0]}, "betas are"),
        ({"seed": "none"}, "seed is 'none'; a value of type int"),
        ({"label_smoothing": 1}, "label_smoothing is 1.0; a number from 0 to below 1"),
        ({"learning_rate": math.nan}, "learning_rate is nan"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(table: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_table(TrainingSettings, table, "config.toml")


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    seconds = from_table(TrainingSettings, {"seconds": 60}, "here").seconds
    assert (seconds, type(seconds)) == (60.0, float)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "linear", "constant"])
def test_the_rate_rises_to_its_peak_and_never_exceeds_it(schedule: str) -> None:
    settings = TrainingSettings(learning_rate=0.5, warm_up=10, schedule=schedule)  # type: ignore[arg-type]
    rates = [learning_rate(settings, step, 100) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert max(rates) == pytest.approx(0.5)
    falling = rates[10:]
    assert falling == sorted(falling, reverse=True)
    assert min(rates) > 0


def test_the_shape_of_each_schedule() -> None:
    def rate(schedule: str, step: int, warm_up: int = 0) -> float:
        settings = TrainingSettings(learning_rate=1.0, warm_up=warm_up, schedule=schedule)  # type: ignore[arg-type]
        return learning_rate(settings, step, 100)

    assert rate("inverse_sqrt", 40, warm_up=10) == pytest.approx(0.5)
    assert rate("linear", 51) == pytest.approx(0.5)
    assert rate("cosine", 51) == pytest.approx(0.5)
    assert rate("cosine", 26) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rate("constant", 99) == 1.0
    assert rate("linear", 101) == rate("linear", 150) == 0.0


def test_the_first_budget_reached_ends_training() -> None:
    budget = Budget.of(TrainingSettings(steps=100, epochs=3, seconds=60.0, accumulate=2), batches=25)
    assert budget.total_steps(0, 0.0) == 39  # 3 epochs of 13 updates
    assert budget.reached(38, 2, 59.0) is None
    assert budget.reached(39, 3, 59.0) == "epochs"
    assert budget.reached(38, 2, 60.0) == "seconds"
    assert budget.reached(100, 2, 0.0) == "steps"
    assert budget.share(13, 45.0) == 0.75


def test_with_seconds_alone_the_steps_follow_from_the_pace() -> None:
    budget = Budget.of(TrainingSettings(seconds=100.0), batches=10)
    assert budget.total_steps(50, 25.0) == 200
    assert budget.share(50, 25.0) == 0.25


def test_a_budget_shorter_than_the_warm_up_still_reaches_the_highest_rate() -> None:
    settings = TrainingSettings(steps=60, warm_up=400, learning_rate=1.0, schedule="cosine")
    rates = [learning_rate(settings, step, 60) for step in range(1, 61)]
    assert max(rates) == rates[29] == 1.0
    assert rates[-1] < 0.01
