"""How often intervals of a difference cover it, and how often tests find one, for two recipes that do not differ.

    python -m benchmarks.coverage --trials 200

Answers are drawn with speakers that are easier or harder, also under one recipe alone, and networks that are
better or worse on all speakers of their fold, on single emotions and on single speakers. Figures are fractions of the
trials: 95% should be covered, and at most 5% found.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ser.evaluation.runs import Run, pooled
from ser.evaluation.significance import difference_intervals, permutation_tests
from ser.evaluation.training_noise import noise_tests, training_noise, widened

EMOTIONS = ("neutral", "happy", "sad", "angry")
UTTERANCES = 28  # per speaker
SPEAKER, OF_RECIPE, DIFFICULTY = 0.8, 0.35, 1.5  # std of logits: speakers, speakers under one recipe, utterances
NOISE = {"none": (0.0, 0.0, 0.0), "some": (0.1, 0.2, 0.1), "much": (0.25, 0.4, 0.2)}  # of run, its emotions, speakers


class Trial(NamedTuple):
    """Whether 0 is covered, before and after training noise is added, and what two tests and the rule find."""

    speakers_only: bool
    covered: bool
    by_speakers: bool
    by_training: bool
    counts: bool


def main() -> None:
    """Print a line per design, number of seeds and amount of noise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="pairs of recipes per line (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3], help="seeds per recipe (default: 1 3)")
    options = parser.parse_args()
    for speakers, folds in ((24, 6), (24, 1), (10, 10), (4, 2)):
        for seeds in options.seeds:
            for name in NOISE:
                trials = [trial(speakers, folds, seeds, name, number) for number in range(options.trials)]
                found = 100 * np.mean(trials, axis=0)
                print(f"{speakers} speakers, {folds} folds, {seeds} seed(s), noise {name}: covered {found[1]:.0f}% "
                      f"(speakers only {found[0]:.0f}%); p speakers < .05 {found[2]:.0f}%, p training < .05 "
                      f"{found[3]:.0f}%, the difference counts {found[4]:.0f}%")  # fmt: skip


def trial(speakers: int, folds: int, seeds: int, noise: str, number: int) -> Trial:
    """Two recipes with the same expectation, compared as ``ser compare`` does."""
    a, b = recipes(speakers, folds, seeds, NOISE[noise], np.random.default_rng(number))
    tables = pooled(a), pooled(b)
    plain, found = difference_intervals(*tables), training_noise(a, b)
    wide = widened(plain, found)["uar"]
    by_speakers = permutation_tests(*tables, repetitions=999)["uar"] < 0.05
    p_training = noise_tests([interval.estimate for interval in plain.values()], found)[0]["p_training"]
    by_training = p_training is not None and p_training < 0.05
    outside = not wide.low <= 0 <= wide.high
    rule = outside and by_speakers and (by_training or p_training is None)
    return Trial(plain["uar"].low <= 0 <= plain["uar"].high, not outside, by_speakers, by_training, rule)


def recipes(
    speakers: int, folds: int, seeds: int, noise: tuple[float, float, float], generator: np.random.Generator
) -> tuple[list[Run], list[Run]]:
    """The runs of two recipes; axes of the logits are recipe, fold, seed, speaker of the fold, utterance."""
    each = speakers // folds
    truth = np.arange(UTTERANCES) % len(EMOTIONS)

    def drawn(std: float, *shape: int) -> np.ndarray:
        return std * generator.standard_normal(shape)

    run, emotion, speaker = noise
    logits = 1.8 + drawn(SPEAKER, 1, folds, 1, each, 1) + drawn(OF_RECIPE, 2, folds, 1, each, 1)
    logits = logits + drawn(DIFFICULTY, 1, folds, 1, each, UTTERANCES) + drawn(run, 2, folds, seeds, 1, 1)
    logits = logits + drawn(emotion, 2, folds, seeds, 1, 4)[..., truth] + drawn(speaker, 2, folds, seeds, each, 1)
    right = generator.random(logits.shape) < 1 / (1 + np.exp(-5 * logits))
    guesses = np.where(right, truth, (truth + generator.integers(1, 4, logits.shape)) % 4)
    names = np.array(EMOTIONS)
    sides: list[list[Run]] = []
    for recipe in guesses:
        runs = []
        for (fold, seed), answers in ((place, recipe[place]) for place in np.ndindex(folds, seeds)):
            units = np.repeat(np.arange(each) + fold * each, UTTERANCES).astype(str)
            ids = [f"{unit}-{place % UTTERANCES}" for place, unit in enumerate(units)]
            labels = {"emotion": names[np.tile(truth, each)], "predicted": names[answers.ravel()]}
            table = pd.DataFrame({"id": ids, "speaker": units, **labels, **{f"p_{name}": 0.25 for name in EMOTIONS}})
            runs.append(Run(Path(), "", fold, seed, {}, {}, table, Path()))
        sides.append(runs)
    return sides[0], sides[1]


if __name__ == "__main__":
    main()
