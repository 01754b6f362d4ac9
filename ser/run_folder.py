"""The folder of one run: what is written into it, and in which order, so that a half-finished run is never mistaken."""

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from ser.checkpoint_file import DamagedCheckpointError, read_checkpoint_file
from ser.data.corpus import Corpus
from ser.data.datamodule import EmotionDataModule
from ser.data.protocols import Split, split_record
from ser.errors import SerError
from ser.evaluation.leakage import write_leakage
from ser.evaluation.predictions import write_embeddings, write_predictions
from ser.evaluation.scores import cross_speaker, scores
from ser.io import remove_leftovers, write_json

log = logging.getLogger(__name__)

RESULTS = (
    "metrics.json", "history.csv", "predictions.csv", "embeddings.npy", "train_predictions.csv", "train_embeddings.npy",
    "leakage.json", "report.html", "checkpoints", "tensorboard", "csv", "wandb", "figures", "figures.partial",
)  # fmt: skip
Part = tuple[pd.DataFrame, np.ndarray]  # prediction table and pooled features (n, P), same row order


class RunFolder:
    """``outputs/<name>/<variant>/fold<k>/seed<s>``; ``metrics.json`` comes last and marks a finished run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.started = time.time()

    @property
    def previous(self) -> Path:
        """Results of an earlier finished run, until this one is finished."""
        return self.path / "previous"

    @property
    def best_checkpoint(self) -> Path:
        """The epoch with the best validation UAR."""
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last_checkpoint(self) -> Path:
        """The last complete epoch, from which an interrupted run goes on."""
        return self.path / "checkpoints" / "last.ckpt"

    def read_metrics(self) -> dict[str, Any] | None:
        """The figures of a finished run, or None."""
        path = self.path / "metrics.json"
        if not path.is_file():
            return None
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return metrics

    def read_best(self) -> dict[str, Any]:
        """The content of the best checkpoint.

        Raises:
            SerError: it is not the file that was written.
        """
        try:
            return read_checkpoint_file(self.best_checkpoint)
        except (DamagedCheckpointError, OSError) as error:
            raise SerError(
                f"{self.best_checkpoint} is damaged ({error}), expected the best epoch of this run; "
                f"delete {self.best_checkpoint.parent} and train again."
            ) from error

    def write_split(
        self, split: Split, corpus: Corpus, left_out: Mapping[str, str], transductive: bool
    ) -> dict[str, Any]:
        """Write ``split.json`` and return it."""
        record = split_record(split, corpus, left_out, transductive)
        write_json(self.path / "split.json", record)
        return record

    def prepare(self, config: dict[str, Any], *, resume: bool) -> Path | None:
        """Put aside what an earlier run of this folder left, or find the checkpoint to go on from.

        What is put aside lies in ``previous/`` until the new run is finished, so that a run that fails costs nothing.

        Args:
            config: the plain description of the run that is about to start.
            resume: go on where an interrupted run stopped.

        Raises:
            SerError: the checkpoint is damaged or belongs to another network or split.
        """
        first = getattr(rank_zero_only, "rank", 0) == 0
        if first:
            remove_leftovers(self.path)
        if resume and self.last_checkpoint.is_file():
            _check_same_run(self.last_checkpoint, config)
            return self.last_checkpoint
        if not first:  # the first process has done it, and may have begun to write
            return None
        finished = (self.path / "metrics.json").is_file()
        if finished:
            shutil.rmtree(self.previous, ignore_errors=True)
            self.previous.mkdir()
        for name in RESULTS:
            stale = self.path / name
            if finished and stale.exists():
                stale.rename(self.previous / name)
            elif stale.is_dir():
                shutil.rmtree(stale, ignore_errors=True)
            else:
                stale.unlink(missing_ok=True)
        return None

    def collect(self, batches: Any, datamodule: EmotionDataModule, part: str) -> Part:
        """Prediction table and pooled features of a part, rows in the split's order, from all processes."""
        outputs: list[dict[str, Any]] = list(batches)
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, outputs)
            outputs = [output for shard in gathered for output in shard]
        ids = [identifier for output in outputs for identifier in output["ids"]]
        place = {identifier: row for row, identifier in enumerate(ids)}
        utterances = datamodule.split.parts()[part]
        order = [place[utterance.id] for utterance in utterances]
        probabilities = torch.cat([output["probabilities"] for output in outputs])[order].double().numpy()
        pooled = torch.cat([output["pooled"] for output in outputs])[order].numpy()
        predicted = probabilities.argmax(axis=1)
        table = pd.DataFrame(
            {
                "id": [u.id for u in utterances],
                "session": [u.session for u in utterances],
                "speaker": [u.speaker for u in utterances],
                "gender": [u.gender for u in utterances],
                "seconds": [round(u.seconds, 4) for u in utterances],
                "emotion": [u.emotion for u in utterances],
                "predicted": [datamodule.emotions[index] for index in predicted],
                **{f"p_{name}": probabilities[:, index] for index, name in enumerate(datamodule.emotions)},
            }
        )
        return table, pooled

    def scores(self, parts: Mapping[str, Part], facts: Mapping[str, Any]) -> dict[str, Any]:
        """The content of metrics.json."""
        tested = {"test": scores(parts["test"][0])} if "test" in parts else {}
        metrics = {
            **tested,
            "validation": scores(parts["validation"][0]),
            **facts,
            "seconds": round(time.time() - self.started, 1),
        }
        return metrics | {"speakers": cross_speaker(parts["test"][0])} if tested else metrics

    def finish(self, parts: Mapping[str, Part], facts: Mapping[str, Any], probe: bool = False) -> dict[str, Any]:
        """Write tables and features, then ``metrics.json``, and return its content.

        Args:
            parts: what was predicted.
            facts: what metrics.json says beside its figures.
            probe: look for the speaker in the features, before ``metrics.json`` says that nothing is left to do.
        """
        for part, prefix in (("test", ""), ("train", "train_")):
            if part not in parts:
                continue  # a search leaves the test part closed
            table, pooled = parts[part]
            write_predictions(self.path / f"{prefix}predictions.csv", table)
            write_embeddings(self.path / f"{prefix}embeddings.npy", pooled)
        if probe and "test" in parts:
            try:
                write_leakage(self.path, facts.get("best_epoch"))
            except SerError as error:
                log.warning("the run goes without the speaker probe: %s", error)
        metrics = self.scores(parts, facts)
        write_json(self.path / "metrics.json", metrics)
        shutil.rmtree(self.previous, ignore_errors=True)
        return metrics


def _check_same_run(checkpoint: Path, config: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint of something else."""
    remedy = f"delete {checkpoint.parent} or run without resume=true to start over."
    try:
        stored = read_checkpoint_file(checkpoint).get("config")
        if not isinstance(stored, dict):
            raise DamagedCheckpointError("it lacks the description of its run")
    except (DamagedCheckpointError, OSError) as error:
        raise SerError(
            f"{checkpoint} is damaged ({error}), expected the checkpoint of an earlier run; {remedy}"
        ) from error
    for key in (
        "hash",
        "emotions",
        "encoder",
        "network",
        "adversary",
    ):  # split first: others depend on it
        if stored.get(key) != config[key]:
            raise SerError(
                f"{checkpoint} was trained with {key} = {stored.get(key)}, this run has {config[key]}; {remedy}"
            )
