"""What a run shows on screen: the corpus, the split, the scores."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich import get_console
from rich.table import Table

from ser.data.corpus import Corpus

log = logging.getLogger(__name__)

OVERLAP = "speakers overlap between training and evaluation: not a result on unseen speakers"
TRANSDUCTIVE = "transductive: uses the test speakers' own unlabelled audio"


def announce(corpus: Corpus, *, default: bool) -> None:
    """One line about the corpus, and one about how to use another when the default was taken."""
    counts = Counter(utterance.emotion for utterance in corpus.utterances)
    hours = sum(utterance.seconds for utterance in corpus.utterances) / 3600
    emotions = ", ".join(f"{counts[emotion]:,} {emotion}" for emotion in corpus.emotions)
    log.info(
        "corpus %s: %s utterances, %.1f h, %d speakers, %d sessions (%s)",
        corpus.name, f"{len(corpus.utterances):,}", hours, len(corpus.speakers), len(corpus.sessions), emotions,
    )  # fmt: skip
    if default:
        log.info("this is the built-in synthetic corpus; for IEMOCAP: data=iemocap data.root=/path/to/IEMOCAP "
                 "(or set SER_DATA=iemocap and IEMOCAP_ROOT)")  # fmt: skip


def show_split(record: Mapping[str, Any]) -> None:
    """The split as a table: utterances, minutes, emotions and speakers of each part."""
    title = f"{record['protocol']} protocol, fold {record['fold']} of {record['folds']}"
    table = Table("part", "utterances", "minutes", *record["emotions"], "sessions", "speakers", title=title)
    for name, part in record["parts"].items():
        table.add_row(
            name,
            f"{part['utterances']:,}",
            f"{part['seconds'] / 60:.1f}",
            *(str(part["emotions"][emotion]) for emotion in record["emotions"]),
            " ".join(map(str, part["sessions"])),
            " ".join(part["speakers"]),
        )
    if record["left_out"]:
        table.add_row("left out", str(len(record["left_out"])))
    table.caption = _notes(record)
    get_console().print(table)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """The test table: UAR first, since it selects; then WA, F1 and each emotion."""
    test = metrics["test"]
    table = Table("", "UAR", "WA", "macro F1", "weighted F1", *(f"recall {name}" for name in test["recall"]))
    for part in ("validation", "test"):
        score = metrics[part]
        row = [score["uar"], score["wa"], score["macro_f1"], score["weighted_f1"], *score["recall"].values()]
        table.add_row(f"{part} ({score['n']})", *("-" if value is None else f"{100 * value:.1f}" for value in row))
    table.title = f"{metrics['variant']}, fold {metrics['fold']}, best epoch {metrics['best_epoch']} by validation UAR (%)"
    table.caption = _notes(metrics)
    get_console().print(table)


def _notes(facts: Mapping[str, Any]) -> str | None:
    """The labels that every result with them must carry."""
    notes = [OVERLAP] * bool(facts["speaker_overlap"]) + [TRANSDUCTIVE] * bool(facts["transductive"])
    return "; ".join(notes) or None
