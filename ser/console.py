"""What a run shows on screen: the corpus, the split, the scores."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich import get_console
from torch import nn

from ser.data.corpus import Corpus
from ser.evaluation.report.cells import Table
from ser.evaluation.report.page_tables import split_table
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import cross_validation_table, run_tables
from ser.evaluation.runs import WARNINGS
from ser.inference.checkpoint import score_line
from ser.module import EmotionModule

log = logging.getLogger(__name__)


def announce(corpus: Corpus) -> None:
    """One line about the corpus, and one about how to use another where it is the built-in one."""
    counts = Counter(utterance.emotion for utterance in corpus.utterances)
    hours = sum(utterance.seconds for utterance in corpus.utterances) / 3600
    emotions = ", ".join(f"{counts[emotion]:,} {emotion}" for emotion in corpus.emotions)
    log.info(
        "corpus %s: %s utterances, %.1f h, %d speakers, %d sessions (%s)",
        corpus.name, f"{len(corpus.utterances):,}", hours, len(corpus.speakers), len(corpus.sessions), emotions,
    )  # fmt: skip
    if corpus.name == "synthetic":
        log.info("this is the built-in synthetic corpus; for IEMOCAP: data=iemocap data.root=/path/to/IEMOCAP "
                 "(or set SER_DATA=iemocap and IEMOCAP_ROOT)")  # fmt: skip


def show_split(record: Mapping[str, Any]) -> None:
    """The split as a table: utterances, minutes, speakers, sessions and emotions of each part."""
    show([split_table(record)])
    _show_labels(record)


def show_network(module: EmotionModule, name: str) -> None:
    """Print the parts of network and adversary with their parameters, and how many of those are trained."""
    total, trained = count_parameters(module)
    rows = []
    parts = [*module.network.named_children(), ("adversary", module.adversary)]
    for part, layer in parts:
        if layer is not None and (count := count_parameters(layer)[0]) > 0:
            rows.append([part, type(layer).__name__, f"{count:,}"])
    caption = f"{total:,} parameters, {trained:,} trained."
    show([Table(f"Network {name}", ["part", "kind", "parameters"], rows, caption)])


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """Print the scores of a run's validation and test part, with the labels that they must carry."""
    if "validation" not in metrics:
        _show_untested(metrics)
        return
    show(run_tables(metrics))
    _show_labels(metrics)


def _show_untested(metrics: Mapping[str, Any]) -> None:
    """What is known of a training on everyone: how long it took, and the cross-validated scores of its recipe."""
    record = metrics["cross_validation"]
    epochs = f"{metrics['variant']}: {metrics['epochs']} epochs on every speaker"
    if record is not None:
        found = sorted(record["epochs"])
        epochs += f" (the best epochs of {record['variant']} were {found[0]} to {found[-1]}; this is their median)"
    show([cross_validation_table(record)] if record else [])
    for line in (epochs, score_line(record)):
        get_console().print(line, highlight=False, markup=False, soft_wrap=True)


def _show_labels(facts: Mapping[str, Any]) -> None:
    """The labels that every result with them must carry."""
    if notes := "; ".join(text for key, text in WARNINGS.items() if facts.get(key)):
        get_console().print(notes, style="bold", markup=False, highlight=False)
