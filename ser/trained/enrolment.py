"""What unlabelled utterances of a new speaker are worth: UAR against how many of them give the statistics.

A run with ``normalization=speaker`` tests with the statistics of all utterances of each test speaker. A user has a few.
Here every test utterance is normalised by the statistics of ``k`` other utterances of its speaker, drawn at random and
shrunk towards those of the training part (the conjugate update of ``ser.data.normalization.RunningStatistics``).
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from ser.config.identity import stored_config, where_it_ran
from ser.cpu import network_products
from ser.data.datamodule import EmotionDataModule, normalize
from ser.data.normalization import FrameStatistics, mean_and_std, prior_sums
from ser.errors import SerError, check_number
from ser.evaluation.comparison import runs_of_one_variant
from ser.evaluation.figures import style
from ser.evaluation.report.cells import name_and_settings
from ser.evaluation.report.render import show
from ser.evaluation.report.tables import enrolment_table
from ser.evaluation.runs import Run, pooled
from ser.evaluation.significance import bootstrap_interval
from ser.inference.checkpoint import read_checkpoint
from ser.inference.engines import build_network
from ser.io import write_text

COUNTS = (0, 1, 2, 4, 8, 16)


def enrol(path: str, shrinkage: float, draws: int) -> None:
    """Measure the runs at or below ``path``, write ``enrolment.csv`` and ``enrolment.png`` there, and print the table.

    ``shrinkage`` is the weight of the training statistics in seconds of audio; for each k, utterances are drawn
    ``draws`` times.

    Raises:
        SerError: there is no run, runs are of several variants or not of normalization=speaker, or their corpus or
            checkpoint is not what it was.
    """
    check_number("--shrinkage", shrinkage, 0, above=True)
    runs = runs_of_one_variant(path)
    predictions: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        for count, table in predict_enrolled(run, shrinkage, draws):
            predictions.setdefault(count, []).append(table)
    results = {count: pd.concat(tables) for count, tables in predictions.items()} | {"own run": pooled(runs)}
    rows = [[count, *bootstrap_interval(result)] for count, result in results.items()]
    table = pd.DataFrame(rows, columns=["k", "uar", "low", "high"])
    folder = Path(path)
    write_text(folder / "enrolment.csv", table.to_csv(index=False))
    style.save_figure(draw_enrolment(table, runs[0].variant, shrinkage), folder / "enrolment")
    show([enrolment_table(table, runs[0].variant, shrinkage)])


def predict_enrolled(run: Run, shrinkage: float, draws: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Prediction tables of the test part, one or more per k (named ``0``, ``1`` ... ``all``)."""
    datamodule, network, training = _loaded(run)
    utterances = datamodule.split.test
    rows = {utterance.id: row for row, utterance in enumerate(utterances)}
    frames, total, square = (torch.from_numpy(table) for table in datamodule.cache.sums(rows))
    sums = torch.cat([frames[:, None].double(), total, square], 1)  # (U, 1 + 2D)
    prior = torch.cat(prior_sums(training, shrinkage * datamodule.frame_rate))  # (1 + 2D)
    speakers = pd.factorize(np.array([utterance.speaker for utterance in utterances]))[0]
    most = int(np.bincount(speakers).max()) - 1  # others of a speaker
    random = np.random.default_rng(0)
    for count in [*(count for count in COUNTS if count < most), most]:
        for _ in range(1 if count in (0, most) else draws):  # these leave nothing to draw
            others = _sums_of_others(sums, speakers, count, random)
            found = prior + others
            mean, std = mean_and_std(found[:, :1], *found[:, 1:].chunk(2, 1))
            yield "all" if count == most else str(count), _predictions(run, datamodule, network, mean, std)


def _sums_of_others(sums: Tensor, speakers: np.ndarray, count: int, random: np.random.Generator) -> Tensor:
    """For each utterance, the sums (U, K) over ``count`` other utterances of its speaker.

    One order is drawn per speaker: an utterance gets the first ``count`` others in it.
    """
    others = torch.zeros_like(sums)
    for speaker in range(speakers.max() + 1):
        order = random.permutation(np.flatnonzero(speakers == speaker))
        chosen = order[: count + 1]
        others[order] = sums[chosen[:count]].sum(0)
        inside = chosen[:count]  # these give way to the next in the order
        others[inside] = sums[chosen].sum(0) - sums[inside]
    return others


@torch.inference_mode()
def _predictions(
    run: Run, datamodule: EmotionDataModule, network: nn.Module, mean: Tensor, std: Tensor
) -> pd.DataFrame:
    """The run's prediction table with the answers to frames normalised by ``mean`` and ``std`` (U, D)."""
    answers: dict[str, np.ndarray] = {}
    with network_products(network):
        for batch in datamodule.loader("test"):
            logits = network(normalize(batch, mean, std).frames, batch.lengths).emotion_logits
            answers |= dict(zip(batch.ids, logits.softmax(-1).double().numpy(), strict=True))
    found = np.stack([answers[identifier] for identifier in run.predictions["id"]])
    columns = {f"p_{name}": found[:, index] for index, name in enumerate(datamodule.emotions)}
    return run.predictions.assign(predicted=np.array(datamodule.emotions)[found.argmax(1)], **columns)


def _loaded(run: Run) -> tuple[EmotionDataModule, nn.Module, FrameStatistics]:
    """Data, network and training statistics of a finished run."""
    from ser.run.building import load_data  # noqa: PLC0415  Lightning loads only when something runs

    if not run.metrics:
        raise SerError(f"{run.folder} is a table, but enrolment needs a run folder with its checkpoint; give one.")
    checkpoint = run.folder / "checkpoints" / "best.ckpt"
    config, weights = read_checkpoint(checkpoint)
    if config.kind != "speaker":
        raise SerError(
            f"{run.folder} was trained with normalization={config.kind}, expected a run with normalization=speaker, "
            "whose network expects each speaker's own statistics; for example experiment=recommended_speaker."
        )
    cfg, _, _ = stored_config(run.folder, run.folder)
    logging.disable(logging.INFO)  # the corpus is the same in each run
    try:
        with where_it_ran(run.folder):
            data = load_data(cfg)
    finally:
        logging.disable(logging.NOTSET)
    if data.record["hash"] != run.hash:
        raise SerError(
            f"{run.folder} was tested on the split {run.hash}, but its corpus now gives {data.record['hash']}; restore "
            "the corpus, or run it again."
        )
    network = build_network(config, weights, checkpoint).eval()
    dataset = data.module.datasets["test"]
    dataset.statistics, dataset.normalized_by = torch.arange(len(dataset)), None  # each utterance has its own
    return data.module, network, config.statistics


@style.styled
def draw_enrolment(table: pd.DataFrame, variant: str, shrinkage: float) -> Figure:
    """UAR with its interval against k, as the table has them; its last row, the run's own result, as a dashed line."""
    figure = style.new_figure(
        6.4, 3.8, f"UAR with the statistics of k utterances of a new speaker: {name_and_settings(variant)[0]}"
    )
    axes = figure.subplots()
    curve, own = table.iloc[:-1], table.iloc[-1]
    places: Sequence[int] = range(len(curve))
    axes.fill_between(places, curve["low"], curve["high"], color=style.BLUE, alpha=0.15, linewidth=0)
    axes.plot(places, curve["uar"], "o-", color=style.BLUE)
    for place, value in zip(places, curve["uar"], strict=True):
        axes.annotate(f"{100 * value:.1f}", (place, value), xytext=(0, -15), textcoords="offset points", ha="center")
    axes.axhline(own["uar"], color=style.GREY, linestyle="--", linewidth=1)
    axes.annotate("the run's own result", (0, own["uar"]), xytext=(-8, 4), textcoords="offset points", color="#666666")
    axes.set_xticks(list(places), curve["k"])
    axes.set(
        xlabel=f"unlabelled utterances of the speaker (training statistics weigh as {shrinkage:g} s)",
        ylabel="UAR (%) with 95% interval",
    )
    axes.yaxis.set_major_formatter(style.PERCENT)
    return figure
