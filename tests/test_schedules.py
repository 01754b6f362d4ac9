"""Schedules follow their formulas, stay in their bounds, and refuse settings that lead nowhere."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.errors import SerError
from ser.schedules import (
    ConstantAlpha,
    ConstantRate,
    CosineRate,
    CosineRestarts,
    LinearAlpha,
    LinearRate,
    PlateauRate,
    SigmoidAlpha,
    StepAlpha,
)

ALPHAS = [ConstantAlpha, LinearAlpha, SigmoidAlpha, StepAlpha]
RATES = [ConstantRate, CosineRate, CosineRestarts, LinearRate]


class Run:
    """As much of a trainer as a schedule needs; records the learning rate of each step."""

    def __init__(self, schedule, total, rate=1.0, steps_per_epoch=10):
        self.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
        self.trainer = SimpleNamespace(
            optimizers=[self.optimizer], estimated_stepping_batches=total, global_step=0, callback_metrics={},
            sanity_checking=False,
        )  # fmt: skip
        self.schedule, self.steps_per_epoch, self.rates = schedule, steps_per_epoch, []
        self.module = SimpleNamespace(log=lambda *_, **__: None)

    def start(self):
        self.schedule.on_train_start(self.trainer, self.module)
        return self

    def go(self, steps, scores=None):
        for _ in range(steps):
            self.schedule.on_train_batch_start(self.trainer, self.module, None, 0)
            self.rates.append(self.optimizer.param_groups[0]["lr"])
            self.optimizer.step()
            self.trainer.global_step += 1
            if scores and self.trainer.global_step % self.steps_per_epoch == 0:
                self.trainer.callback_metrics = {"val/uar": scores.pop(0)}
                self.schedule.on_validation_end(self.trainer, self.module)
        return self


def rates(schedule, total, rate=1.0):
    return Run(schedule, total, rate).start().go(total).rates


@given(epochs=st.integers(1, 200), fraction=st.floats(0, 1), top=st.floats(0, 3))
@pytest.mark.parametrize("kind", ALPHAS)
def test_alpha_is_bounded(kind, epochs, fraction, top):
    schedule = kind(max_alpha=top)
    now, later = schedule.value(fraction * epochs, epochs), schedule.value(epochs, epochs)
    assert 0 <= now <= later <= top + 1e-12


@given(epochs=st.integers(1, 200), fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
@pytest.mark.parametrize("kind", ALPHAS)
def test_alpha_never_falls(kind, epochs, fractions):
    schedule = kind()
    first, second = (schedule.value(fraction * epochs, epochs) for fraction in sorted(fractions))
    assert first <= second


def test_linear_alpha_follows_the_formula():
    schedule = LinearAlpha(start_epoch=5, end_fraction=0.7, max_alpha=1.0)
    assert [schedule.value(e, 50) for e in (0, 4, 5, 20, 35, 49)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    assert schedule.value(5, 6) == 1.0  # no room for the line: it jumps


def test_sigmoid_alpha_follows_the_formula():
    value = SigmoidAlpha(max_alpha=0.8).value(10, 40)
    assert value == pytest.approx(0.8 * (2 / (1 + math.exp(-2.5)) - 1))


def test_step_alpha_rises_in_equal_steps():
    schedule = StepAlpha(start_epoch=2, every_epochs=3, steps=2)
    assert [schedule.value(e, 20) for e in (0, 1.9, 2, 4.9, 5, 19)] == [0, 0, 0.5, 0.5, 1, 1]


@settings(max_examples=20, deadline=None)
@given(total=st.integers(1, 400), warmup=st.integers(0, 50))
@pytest.mark.parametrize("kind", RATES)
def test_rate_rises_in_the_warmup_and_falls_after_it_but_for_restarts(kind, total, warmup):
    found = rates(kind(warmup_steps=warmup), total, 1e-3)
    warmup = min(warmup, int(0.1 * total))
    assert all(0 < rate <= 1e-3 * (1 + 1e-9) for rate in found)
    assert found[: warmup + 1] == sorted(found[: warmup + 1])
    if kind is not CosineRestarts:
        assert found[warmup:] == sorted(found[warmup:], reverse=True)


@pytest.mark.parametrize("kind", [CosineRate, LinearRate])
@pytest.mark.parametrize("warmup", [0, 7])
def test_rate_ends_at_the_floor_at_the_last_step(kind, warmup):
    found = rates(kind(warmup_steps=warmup, min_lr=1e-5), 100)
    assert found[warmup] == pytest.approx(1.0)
    assert found[-1] == pytest.approx(1e-5)
    assert found[warmup + (99 - warmup) // 2] == pytest.approx(0.5, abs=0.02)


def test_warmup_is_capped_and_rises_from_a_tenth():
    found = rates(ConstantRate(warmup_steps=1000, warmup_fraction=0.1), 500)
    assert [found[step] for step in (0, 25, 50, 499)] == pytest.approx([0.1, 0.55, 1.0, 1.0])


def test_cosine_restarts_at_a_quarter_and_three_quarters():
    found = rates(CosineRestarts(warmup_steps=0, min_lr=1e-7), 400)
    assert [found[step] for step in (0, 50, 100, 200, 300)] == pytest.approx([1, 0.5, 1, 0.5, 1], abs=1e-6)
    assert found[99] < 1e-3


def test_plateau_halves_the_rate_after_its_patience():
    scores = [0.5, 0.6, 0.6, 0.6, 0.6, 0.7]  # patience 2: the third epoch in a row without a rise
    found = Run(PlateauRate(patience=2, warmup_steps=0), 60).start().go(60, scores).rates
    assert found[::10] == [1.0, 1.0, 1.0, 1.0, 1.0, 0.5]


@pytest.mark.parametrize("kind", [*RATES, PlateauRate])
@pytest.mark.parametrize("stop", [3, 40, 60])
def test_a_resumed_schedule_gives_the_same_bits(kind, stop):
    scores = [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]
    whole = Run(kind(warmup_steps=8), 100).start().go(100, list(scores)).rates
    first = Run(kind(warmup_steps=8), 100).start().go(stop, list(scores))
    second = Run(kind(warmup_steps=8), 100)
    second.schedule.load_state_dict(first.schedule.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.trainer.global_step = stop
    resumed = second.start().go(100 - stop, scores[stop // 10 :]).rates
    assert first.rates + resumed == whole


def test_a_resumed_run_of_another_length_is_refused():
    first = Run(CosineRate(), 100).start().go(5)
    second = Run(CosineRate(), 120)
    second.schedule.load_state_dict(first.schedule.state_dict())
    with pytest.raises(SerError, match="100 steps, this run has 120"):
        second.start()


@pytest.mark.parametrize(("kind", "arguments"), [
    (StepAlpha, {"every_epochs": 0}),
    (StepAlpha, {"steps": 0}),
    (LinearAlpha, {"max_alpha": -1}),
    (LinearAlpha, {"end_fraction": 1.5}),
    (ConstantAlpha, {"max_alpha": math.nan}),
    (CosineRestarts, {"cycle_growth": 0.5}),
    (CosineRestarts, {"cycle_growth": 1.5}),
    (CosineRestarts, {"first_cycle_fraction": 0}),
    (LinearRate, {"min_lr": -1e-3}),
    (LinearRate, {"min_lr": "low"}),
    (ConstantRate, {"warmup_steps": -1}),
    (PlateauRate, {"factor": 1.0}),
    (PlateauRate, {"mode": "maximum"}),
])  # fmt: skip
def test_settings_out_of_range_are_refused(kind, arguments):
    with pytest.raises(SerError, match=f"{next(iter(arguments))}=.* was given, expected"):
        kind(**arguments)
