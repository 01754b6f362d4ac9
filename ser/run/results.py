"""What a run found: prediction tables and pooled features of its parts, and their scores."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from ser.data.corpus import Utterance
from ser.data.datamodule import EmotionDataModule
from ser.evaluation.predictions import PREFIX
from ser.evaluation.scores import cross_speaker, scores
from ser.evaluation.significance import scores_with_interval


class Part(NamedTuple):
    """What was predicted of a part, rows in the split's order."""

    table: pd.DataFrame
    pooled: np.ndarray  # (n, P)
    statistics: np.ndarray | None  # (n, F) before an erasure; None without one


def collect(batches: list[Any], datamodule: EmotionDataModule, part: str) -> Part:
    """Prediction table and features of a part, rows in the split's order, from all processes; empties ``batches``."""
    outputs: list[dict[str, Any]] = list(batches)
    batches.clear()  # the trainer keeps the list, and with many classes it is large
    if dist.is_available() and dist.is_initialized():
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, outputs)
        outputs = [output for shard in gathered for output in shard]
    ids = [identifier for output in outputs for identifier in output["ids"]]
    place = {identifier: row for row, identifier in enumerate(ids)}
    utterances = datamodule.split.parts()[part]
    order = [place[utterance.id] for utterance in utterances]
    probabilities = torch.cat([output["probabilities"] for output in outputs])[order].numpy()
    features = {
        key: torch.cat([output[key] for output in outputs])[order].numpy()
        for key in ("pooled", "statistics")
        if key in outputs[0]
    }
    del outputs
    table = prediction_table(utterances, datamodule.emotions, probabilities)
    return Part(table, features["pooled"], features.get("statistics"))


def prediction_table(
    utterances: Sequence[Utterance], emotions: Sequence[str], probabilities: np.ndarray
) -> pd.DataFrame:
    """The prediction table of utterances with these probabilities (n, C)."""
    several = ["corpus"] if any(u.corpus for u in utterances) else []
    columns = {key: [getattr(u, key) for u in utterances] for key in ("id", "session", "speaker", "gender", *several)}
    columns["seconds"] = [round(u.seconds, 4) for u in utterances]
    columns["emotion"] = [u.emotion for u in utterances]
    columns["predicted"] = [emotions[place] for place in probabilities.argmax(axis=1)]
    return pd.DataFrame(columns | {f"{PREFIX}{name}": probabilities[:, place] for place, name in enumerate(emotions)})


def score_parts(parts: Mapping[str, Part], facts: Mapping[str, Any], started: float) -> dict[str, Any]:
    """The content of metrics.json: scores of what was predicted, facts beside them, and the seconds since the start."""
    scored: dict[str, Any] = {}
    if "test" in parts:
        scored["test"] = scores_with_interval(parts["test"].table)
    if "validation" in parts:
        scored["validation"] = scores(parts["validation"].table)
    if "test" in parts and "corpus" in (table := parts["test"].table):
        scored["corpora"] = {str(name): scores(part) for name, part in table.groupby("corpus", sort=False)}
    metrics = {**scored, **facts, "seconds": round(time.time() - started, 1)}
    return metrics | {"speakers": cross_speaker(parts["test"].table)} if "test" in parts else metrics
