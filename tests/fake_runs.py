"""Finished run folders made by code: what a training run leaves behind, with a known skill and known speakers."""

import hashlib
import json

import numpy as np
import pandas as pd

from ser.evaluation.predictions import write_embeddings, write_predictions
from ser.evaluation.scores import cross_speaker, scores
from ser.io import atomic_path, write_json

EMOTIONS = ("neutral", "happy", "sad", "angry")


def fake_table(
    speakers=8,
    utterances=24,
    skill=0.6,
    seed=0,
    *,
    emotions=EMOTIONS,
    first_speaker=1,
    speaker_std=0.0,
    speakers_a_session=2,
    corpus_seed=0,
):
    """A prediction table: ``skill`` is the chance of a right answer, ``speaker_std`` how much it varies over speakers.

    ``corpus_seed`` fixes the truth (ids, labels, seconds), ``seed`` the answers, so that two tables can be paired.
    """
    answers = np.random.default_rng([seed, 1])
    rows = []
    for number in range(first_speaker, first_speaker + speakers):
        truth = np.random.default_rng([corpus_seed, number])
        own = float(np.clip(skill + speaker_std * answers.standard_normal(), 0.02, 0.98))
        for index in range(utterances):
            emotion = emotions[(index + number) % len(emotions)]
            others = [name for name in emotions if name != emotion]
            predicted = emotion if answers.random() < own else others[answers.integers(len(others))]
            values = answers.dirichlet(np.ones(len(emotions)))
            top = emotions.index(predicted)
            largest = int(values.argmax())
            values[[top, largest]] = values[[largest, top]]
            rows.append(
                {
                    "id": f"s{number:02d}_{index:03d}",
                    "session": (number - 1) // speakers_a_session + 1,
                    "speaker": f"{number:02d}",
                    "gender": "FM"[number % 2],
                    "seconds": float(1 + 6 * truth.random()),
                    "emotion": emotion,
                    "predicted": predicted,
                    **{f"p_{name}": value for name, value in zip(emotions, values, strict=True)},
                }
            )
    return pd.DataFrame(rows)


def fake_embeddings(table, size=16, speaker_strength=1.0, seed=0, emotions=EMOTIONS):
    """Pooled features (n, size): noise, the emotion, and the speaker's own direction times ``speaker_strength``."""
    noise = np.random.default_rng([seed, 2]).standard_normal((len(table), size))
    emotion_axes = np.random.default_rng(3).standard_normal((len(emotions), size))
    codes = table["emotion"].map({name: code for code, name in enumerate(emotions)}).to_numpy()
    voices = {name: np.random.default_rng([4, int(name)]).standard_normal(size) for name in table["speaker"].unique()}
    gender = np.where(table["gender"] == "F", 1.0, -1.0)[:, None] * np.random.default_rng(5).standard_normal(size)
    voice = np.stack([voices[name] for name in table["speaker"]]) + gender
    return (noise + emotion_axes[codes] + speaker_strength * voice).astype(np.float32)


def part_of(table):
    """One part of ``split.json``."""
    labels = sorted(zip(table["id"], table["emotion"], strict=True))
    return {
        "utterances": len(table),
        "seconds": float(table["seconds"].sum()),
        "speakers": sorted(table["speaker"].unique()),
        "sessions": [int(s) for s in sorted(table["session"].unique())],
        "emotions": {name: int((table["emotion"] == name).sum()) for name in sorted(table["emotion"].unique())},
        "ids": sorted(table["id"]),
        "hash": hashlib.sha256(json.dumps(labels).encode()).hexdigest()[:16],
    }


def fake_history(epochs, seed, uar):
    """A learning curve that ends near ``uar``; the test column peaks above what the chosen epoch has."""
    noise = np.random.default_rng([seed, 6])
    epoch = np.arange(epochs)
    rise = 0.25 + (uar - 0.25) * (1 - np.exp(-(epoch + 1) / max(1.0, epochs / 4)))
    loss = 1.4 * np.exp(-epoch / epochs)
    columns = {
        "epoch": epoch,
        "seconds": 1 + 0.1 * noise.random(epochs),
        "learning_rate": 5e-4 * (1 + np.cos(np.pi * epoch / epochs)) / 2 + 1e-7,
        "alpha": np.clip((epoch - 2) / max(1, 0.7 * epochs - 2), 0, 1),
        "gradient_norm": 1 + noise.random(epochs),
        "peak_memory_mb": np.full(epochs, 512.0),
        "train/loss": loss,
        "train/emotion_loss": 0.9 * loss,
        "train/speaker_loss": np.full(epochs, 1.8),
        "train/l2": np.full(epochs, 0.01),
        "train/wa": rise + 0.05,
        "train/uar": rise + 0.05,
        "train/f1": rise + 0.04,
        "train/speaker_accuracy": 0.2 + 0.1 * noise.random(epochs),
        "val/loss": loss + 0.1,
        "val/wa": rise,
        "val/uar": rise,
        "val/f1": rise - 0.01,
        "test/uar": rise + 0.05 * noise.random(epochs),
        "test/wa": rise + 0.05 * noise.random(epochs),
    }
    return pd.DataFrame(columns)


def write_run(
    folder,
    variant="gru",
    fold=1,
    seed=1,
    *,
    skill=0.6,
    speakers=8,
    utterances=24,
    folds=4,
    emotions=EMOTIONS,
    speaker_std=0.0,
    speaker_strength=1.0,
    corpus="fake",
    protocol="session",
    speaker_overlap=False,
    transductive=False,
    epochs=12,
    finished=True,
    features="logmel",
):
    """Write ``folder/variant/fold<k>/seed<s>`` as a finished run leaves it; returns its path.

    The test part is the ``fold``-th share of the speakers, so the folds of one sweep cover every speaker once.
    """
    run = folder / variant / f"fold{fold}" / f"seed{seed}"
    salt = int(hashlib.sha256(f"{variant}/{fold}/{seed}".encode()).hexdigest()[:8], 16)
    a_session = max(1, speakers // folds)
    whole = fake_table(
        speakers, utterances, skill, salt, emotions=emotions, speaker_std=speaker_std, speakers_a_session=a_session
    )
    validation_fold = fold % folds + 1
    parts = {
        "train": whole[~whole["session"].isin([fold, validation_fold])],
        "validation": whole[whole["session"] == validation_fold],
        "test": whole[whole["session"] == fold],
    }
    parts = {name: part.reset_index(drop=True) for name, part in parts.items()}
    write_predictions(run / "predictions.csv", parts["test"])
    write_predictions(run / "train_predictions.csv", parts["train"])
    for name, part in (("embeddings.npy", parts["test"]), ("train_embeddings.npy", parts["train"])):
        pooled = fake_embeddings(part, speaker_strength=speaker_strength, seed=salt, emotions=emotions)
        write_embeddings(run / name, pooled)
    with atomic_path(run / "history.csv") as path:
        fake_history(epochs, salt, skill).to_csv(path, index=False)
    split_parts = {name: part_of(part) for name, part in parts.items()}
    identity = json.dumps([corpus, emotions, {name: part["hash"] for name, part in split_parts.items()}])
    split = {
        "corpus": corpus,
        "corpus_fingerprint": hashlib.sha256(corpus.encode()).hexdigest()[:16],
        "emotions": list(emotions),
        "protocol": protocol,
        "fold": fold,
        "folds": folds,
        "seed": seed,
        "speaker_overlap": speaker_overlap,
        "transductive": transductive,
        "left_out": {},
        "parts": split_parts,
        "hash": hashlib.sha256(identity.encode()).hexdigest()[:16],
    }
    write_json(run / "split.json", split)
    answer = {"title": "a.wav: sad (80%)", "seconds": 2.0, "envelope": [[-0.1, 0.2]] * 50, "weights": [0.25] * 4}
    write_json(run / "attention.json", {"utterances": [answer]})
    metrics = {
        "test": scores(parts["test"]),
        "validation": scores(parts["validation"]),
        "best_epoch": epochs - 2,
        "epoch_chosen_by": "val/uar",
        "epochs": epochs,
        "seconds": 3.5,
        "parameters": 12345,
        "trainable_parameters": 12345,
        "fold": fold,
        "seed": seed,
        "protocol": protocol,
        "speaker_overlap": speaker_overlap,
        "transductive": transductive,
        "corpus": corpus,
        "features": features,
        "variant": variant,
        "hash": split["hash"],
        "speakers": cross_speaker(parts["test"], repetitions=100),
    }
    if finished:
        write_json(run / "metrics.json", metrics)
    return run
