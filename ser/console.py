"""What a run shows on screen, and in its train.log: the corpus, the split, the scores."""

import io
import logging
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich import get_console
from rich.console import Console
from torch import nn

from ser.data.corpus import Corpus
from ser.evaluation.report.cells import Table, name_and_settings
from ser.evaluation.report.page_tables import split_table
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import cross_validation_table, run_tables
from ser.evaluation.runs import warnings_in
from ser.inference.checkpoint import score_line
from ser.module import EmotionModule

log = logging.getLogger(__name__)
_LOG_WIDTH = 120  # characters of a table in train.log


def is_quiet() -> bool:
    """Whether this is one of several runs, whose details go into train.log only; ``hydra.verbose=ser`` shows them."""
    if not HydraConfig.initialized():
        return False
    return HydraConfig.get().mode == RunMode.MULTIRUN and not HydraConfig.get().verbose


def announce(corpus: Corpus) -> None:
    """One line about the corpus, and one about how to use another where it is the built-in one."""
    log.info("corpus %s", corpus.summary())
    if corpus.name == "synthetic":
        log.info("this is the built-in synthetic corpus; for IEMOCAP: data=iemocap data.root=/path/to/IEMOCAP "
                 "(or set SER_DATA=iemocap and IEMOCAP_ROOT)")  # fmt: skip


def show_split(record: Mapping[str, Any]) -> None:
    """The split as a table: utterances, minutes, speakers, sessions and emotions of each part."""
    lines = _labels(record)
    if others := record.get("auxiliary"):
        counts = ", ".join(f"{count} {emotion}" for emotion, count in others["emotions"].items())
        lines = [*lines, f"A second head learns {others['utterances']} utterances more, of other emotions: {counts}."]
    _tell([split_table(record)], lines)


def show_network(module: EmotionModule, name: str) -> None:
    """Print the parts of network and adversary with their parameters, and how many of those are trained."""
    total, trained = count_parameters(module)
    rows = []
    parts = [*module.network.named_children(), ("adversary", module.adversary), ("second head", module.auxiliary)]
    for part, layer in parts:
        if layer is not None and (count := count_parameters(layer)[0]) > 0:
            rows.append([part, type(layer).__name__, f"{count:,}"])
    caption = f"{total:,} parameters, {trained:,} trained."
    _tell([Table(f"Network {name}", ["part", "kind", "parameters"], rows, caption)])


def count_parameters(network: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def show_scores(metrics: Mapping[str, Any]) -> None:
    """Print the scores of a run's validation and test part, with the labels that they must carry."""
    if "validation" in metrics:
        _tell(run_tables(metrics), _labels(metrics))
        return
    record = metrics["cross_validation"]  # of a training on everyone
    epochs = f"{name_and_settings(metrics['variant'])[0]}: {metrics['epochs']} epochs on every speaker"
    if record is not None:
        found = sorted(record["epochs"])
        kept = f"{found[0]} to {found[-1]}" if found[0] < found[-1] else f"{found[0]}"
        chosen = metrics["epochs"] == math.floor(median(found) + 0.5)
        why = "this is their median" if chosen else "the same steps are fewer epochs of all speakers"
        epochs += f" (the folds of {name_and_settings(record['variant'])[0]} took {kept}; {why})"
    _tell([cross_validation_table(record)] if record else [], [epochs, score_line(record)])


def _tell(tables: Sequence[Table], lines: Sequence[str] = ()) -> None:
    """Print tables and lines below them; of one of several runs only its train.log gets them."""
    written = Console(file=io.StringIO(), width=_LOG_WIDTH)
    for console in [written] if is_quiet() else [written, get_console()]:
        show(tables, console)
        for line in lines:
            console.print(line, style="bold", highlight=False, markup=False, soft_wrap=True)
    log.debug("\n%s", written.file.getvalue())  # type: ignore[attr-defined]


def _labels(facts: Mapping[str, Any]) -> list[str]:
    """The labels that every result with them must carry."""
    return ["; ".join(found)] if (found := warnings_in(facts)) else []
