"""Words that make a run of train.py take a second, and what it found."""

import json
from pathlib import Path

TINY = [
    "model=gru",
    "model.hidden_size=8",
    "trainer.max_epochs=1",
    "callbacks.progress_bar=null",
    "logger=none",
    "batches.batch_size=8",
    "leakage=false",
    "figures=false",
]


def figures(folder: Path) -> dict:
    """The content of metrics.json without the times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("seconds")
    metrics.pop("prediction_seconds")
    return metrics
