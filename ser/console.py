"""What a run shows on screen: the corpus, the split, the scores."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from torch import nn

from ser.data.corpus import Corpus
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import cross_validation_table
from ser.evaluation.runs import WARNINGS
from ser.inference.checkpoint import score_line
from ser.module import EmotionModule

log = logging.getLogger(__name__)
_MOST_NAMES = 16  # of speakers in a cell


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
    """The split as a table: utterances, minutes, emotions and speakers of each part."""
    title = f"{escape(record['protocol'])} protocol, fold {record['fold']} of {record['folds']}"
    table = Table(
        "part", "utt.", "min", *map(escape, record["emotions"]), "sessions", "speakers", title=title, box=SIMPLE_HEAD
    )
    for name, part in record["parts"].items():
        if not part["utterances"]:
            continue  # protocol=everyone
        table.add_row(
            name,
            f"{part['utterances']:,}",
            f"{part['seconds'] / 60:.1f}",
            *(str(part["emotions"][emotion]) for emotion in record["emotions"]),
            " ".join(map(str, part["sessions"])),
            escape(_shortened(part["speakers"])),
        )
    if record["left_out"]:
        table.add_row("left out", str(len(record["left_out"])))
    table.caption = _notes(record)
    get_console().print(table)


def _shortened(names: Sequence[str]) -> str:
    """Names in one cell; of many, the first ones and how many there are."""
    return " ".join(names if len(names) <= _MOST_NAMES else [*names[: _MOST_NAMES // 2], f"... ({len(names)} in all)"])


def show_network(module: EmotionModule, name: str) -> None:
    """Print the parts of network and adversary with their parameters, and how many of those are trained."""
    total, trained = count_parameters(module)
    table = Table(
        "part", "kind", "parameters", title=f"{name}: {total:,} parameters, {trained:,} trained", box=SIMPLE_HEAD
    )
    table.columns[-1].justify = "right"
    parts = [*module.network.named_children(), ("adversary", module.adversary)]
    for part, layer in parts:
        if layer is not None and (count := count_parameters(layer)[0]) > 0:
            table.add_row(part, type(layer).__name__, f"{count:,}")
    get_console().print(table)


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """The test table in percent: UAR first, since it selects; then WA, F1 and each emotion's recall."""
    if "validation" not in metrics:
        _show_untested(metrics)
        return
    emotions = list(metrics["validation"]["recall"])
    table = Table("%", "utt.", "UAR", "WA", "macro F1", "weighted F1", *map(escape, emotions), box=SIMPLE_HEAD)
    rows = {part: metrics.get(part) for part in ("validation", "test")}
    if len(corpora := metrics.get("corpora", {})) > 1:
        rows |= {f"  {escape(name)}": score for name, score in corpora.items()}
    for part, score in rows.items():
        if score is None:
            continue  # a search leaves the test part closed
        row = [score["uar"], score["wa"], score["macro_f1"], score["weighted_f1"], *score["recall"].values()]
        style = "bold" if part == "test" else None
        figures = ("-" if value is None else f"{100 * value:.1f}" for value in row)
        table.add_row(part, str(score["n"]), *figures, style=style)
    fitted = metrics.get("regularization_c")  # of a network without epochs
    chosen = f"epoch {metrics['best_epoch']} chosen by validation UAR" if fitted is None else f"C = {fitted:g}"
    where = f"{escape(metrics['variant'])}, fold {metrics['fold']}"
    table.title = f"{where}, {chosen}; under emotions: recall"
    table.caption = _notes(metrics)
    get_console().print(table)


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


def _notes(facts: Mapping[str, Any]) -> str | None:
    """The labels that every result with them must carry."""
    return "; ".join(text for key, text in WARNINGS.items() if facts.get(key)) or None
