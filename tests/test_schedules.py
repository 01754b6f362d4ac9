import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser.callbacks.alpha_schedule import ConstantAlpha, LinearAlpha, SigmoidAlpha, StepAlpha
from ser.callbacks.lr_schedule import ConstantRate, CosineRestarts, LinearRate, PlateauRate


@given(epochs=st.integers(1, 200), share=st.floats(0, 1), top=st.floats(0, 3))
@pytest.mark.parametrize("kind", [ConstantAlpha, LinearAlpha, SigmoidAlpha, StepAlpha])
def test_alpha_is_bounded_and_never_falls(kind, epochs, share, top):
    schedule = kind(max_alpha=top)
    now, later = schedule.value(share * epochs, epochs), schedule.value(epochs, epochs)
    assert 0 <= now <= later <= top + 1e-12


@given(epochs=st.integers(1, 200), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@pytest.mark.parametrize("kind", [ConstantAlpha, LinearAlpha, SigmoidAlpha, StepAlpha])
def test_alpha_never_falls_between_any_two_moments(kind, epochs, shares):
    schedule = kind()
    first, second = (schedule.value(share * epochs, epochs) for share in sorted(shares))
    assert first <= second


def test_linear_alpha_follows_the_formula():
    schedule = LinearAlpha(start_epoch=5, end_share=0.7, max_alpha=1.0)
    assert [schedule.value(e, 50) for e in (0, 4, 5, 20, 35, 49)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert schedule.value(5, 6) == 1.0  # no room for the line: it steps


def test_sigmoid_alpha_follows_the_formula():
    value = SigmoidAlpha(max_alpha=0.8).value(10, 40)
    assert value == pytest.approx(0.8 * (2 / (1 + math.exp(-2.5)) - 1))


def test_step_alpha_climbs_in_equal_stairs():
    schedule = StepAlpha(start_epoch=2, every_epochs=3, steps=2)
    assert [schedule.value(e, 20) for e in (0, 1.9, 2, 4.9, 5, 19)] == [0, 0, 0.5, 0.5, 1, 1]


@given(total=st.integers(1, 5000), share=st.floats(0, 1))
@pytest.mark.parametrize("kind", [ConstantRate, CosineRestarts, LinearRate, PlateauRate])
def test_rate_stays_between_zero_and_its_start(kind, total, share):
    schedule = kind(warmup_steps=1000)
    schedule.prepare(total)
    assert 0 < schedule.rate_at(1e-3, int(share * total)) <= 1e-3


@given(total=st.integers(1, 5000), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@pytest.mark.parametrize("kind", [ConstantRate, CosineRestarts, LinearRate])
def test_rate_rises_in_the_warmup_and_falls_after_it_but_for_restarts(kind, total, shares):
    schedule = kind(warmup_steps=50)
    schedule.prepare(total)
    first, second = (int(share * total) for share in sorted(shares))
    rates = [schedule.rate_at(1e-3, step) for step in (first, second)]
    if second <= schedule.warmup:
        assert rates[0] <= rates[1] * (1 + 1e-12)
    elif first >= schedule.warmup and (kind is not CosineRestarts or second - schedule.warmup < total // 4):
        assert rates[0] >= rates[1] * (1 - 1e-12)


def test_warmup_is_capped_and_rises_from_a_tenth():
    schedule = ConstantRate(warmup_steps=1000, warmup_share=0.1)
    schedule.prepare(500)
    assert schedule.warmup == 50
    assert schedule.rate_at(1.0, 0) == pytest.approx(0.1)
    assert schedule.rate_at(1.0, 25) == pytest.approx(0.55)
    assert schedule.rate_at(1.0, 50) == 1.0


def test_cosine_restarts_at_a_quarter_and_three_quarters():
    schedule = CosineRestarts(warmup_steps=0, min_lr=1e-7)
    schedule.prepare(400)
    assert schedule.rate_at(1.0, 0) == 1.0
    assert schedule.rate_at(1.0, 50) == pytest.approx(0.5, abs=1e-6)
    assert schedule.rate_at(1.0, 99) < 1e-3
    assert schedule.rate_at(1.0, 100) == 1.0  # second cycle, twice as long
    assert schedule.rate_at(1.0, 200) == pytest.approx(0.5, abs=1e-6)
    assert schedule.rate_at(1.0, 300) == 1.0


def test_schedule_state_survives():
    schedule = PlateauRate(warmup_steps=10)
    schedule.prepare(300)
    schedule.best, schedule.waited, schedule.scale = 0.7, 2, 0.25
    twin = PlateauRate(warmup_steps=10)
    twin.load_state_dict(schedule.state_dict())
    assert [twin.rate_at(1e-3, s) for s in (0, 5, 200)] == [schedule.rate_at(1e-3, s) for s in (0, 5, 200)]
