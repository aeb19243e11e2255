import itertools

import numpy as np
import pytest

from headstart.adapting.settings import AdaptError, Settings, whole_or_auto


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": 3, "epochs": 1}, "give one of them"),
        ({"steps": -1}, "steps is -1; give 0 or more"),
        ({"steps": "many"}, "give a whole number, or auto"),
        ({"epochs": 0}, "epochs is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"early_stopping": 0}, "early_stopping is 0"),
        ({"compare": True, "measure": False}, "a comparison measures"),
    ],
)
def test_settings_out_of_range_are_refused(options, told):
    with pytest.raises(AdaptError, match=told):
        Settings(**options)


def test_steps_are_read_from_text():
    assert [whole_or_auto(text) for text in (None, "auto", "7", "-1")] == [None, "auto", 7, -1]
    with pytest.raises(AdaptError, match="steps is 'x'"):
        whole_or_auto("x")


def test_an_epoch_takes_every_row_once_and_the_next_in_another_order():
    schedule = Settings(epochs=3, batch_size=8).schedule(21, trained=3)
    assert schedule.steps == 9
    epochs = [np.concatenate([schedule.minibatch(step, 21) for step in range(first, first + 3)]) for first in (0, 3)]
    assert all(sorted(epoch.tolist()) == list(range(21)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert {len(schedule.minibatch(step, 21)) for step in range(9)} == {7}


def test_rows_that_fit_in_one_batch_are_taken_in_order():
    assert Settings(steps=4).schedule(5, trained=3).minibatch(3, 5).tolist() == [0, 1, 2, 3, 4]


def test_the_rate_falls_to_zero_behind_the_shipped_steps_in_epochs_alone():
    falling = Settings(epochs=1, batch_size=1).schedule(13, trained=3)
    factors = [falling.factor(step) for step in range(14)]
    assert factors[:4] == [1.0] * 4
    assert factors == sorted(factors, reverse=True)
    assert factors[13] == 0
    assert {Settings(steps=50).schedule(13, trained=3).factor(step) for step in range(60)} == {1.0}


def test_auto_has_the_longer_of_two_horizons():
    assert Settings().schedule(20, trained=3).steps == 64
    assert Settings("auto", batch_size=10).schedule(1000, trained=3).steps == 300


def test_looks_hold_first_and_last_and_lie_close_enough_to_choose_by():
    looks = Settings().schedule(20, trained=3).looks(choosing=True)
    assert (looks[0], looks[-1]) == (0, 64)
    assert all(after <= max(before + 1, 1.5 * before) for before, after in itertools.pairwise(looks))
    assert Settings(steps=0).schedule(20, trained=3).looks(choosing=False) == (0,)
    assert Settings(steps=5).schedule(20, trained=3).looks(choosing=False) == (0, 1, 2, 3, 4, 5)
