"""``ser evaluate``: a trained model scored on labelled data, in the files of a run, with what it has seen left out."""

import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich import get_console

from ser.config import compose_config, instantiate
from ser.data.batching import length_batches
from ser.data.cache import FeatureCache
from ser.data.corpus import Corpus, Utterance
from ser.data.normalization import FrameStatistics, SpeakerNormalization
from ser.data.split import part_record, recording_key
from ser.encoders import FrameFiles
from ser.errors import SerError
from ser.evaluation.predictions import emotions_of, write_embeddings, write_predictions
from ser.evaluation.report.cells import listed, name_and_settings
from ser.evaluation.report.page_tables import evaluation_notes, score_tables, speaker_tables
from ser.evaluation.report.render import show
from ser.evaluation.runs import Run, declared, load_run, warnings_in
from ser.evaluation.scores import cross_speaker
from ser.evaluation.significance import scores_with_interval
from ser.extraction.frames import Extraction, extract
from ser.extraction.inventory import CacheFolder
from ser.inference.recognizer import Recognizer
from ser.io import leftovers, read_json, write_errors, write_json
from ser.run.results import prediction_table
from ser.trained.seen import SeenSpeakersError, SharedClasses, Trained, digest_of, seen_speakers, tested_name

_BATCH_FRAMES = 16_000  # padded frames of the encoder in a batch, as in training
_RESULTS = ("metrics.json", "predictions.csv", "embeddings.npy", "report.html", "leakage.json")  # beside split.json
_HASH = "evaluation"  # begins the hash of a split that ser evaluate made
_MOST_SPEAKERS = 30  # on the screen; the page has all
_KEYS = ("data", "paths", "extraction", "map")


def evaluate(
    trained: Trained,
    overrides: Sequence[str],
    output: Path | None = None,
    *,
    allow_seen: bool = False,
    leave_out_seen: bool = False,
) -> Run:
    """Score a model on a labelled corpus and write predictions.csv, embeddings.npy, split.json and metrics.json.

    The frames come from the feature cache, where missing ones are added. They are normalised as in training: with
    ``normalization=speaker`` by each test speaker's own statistics, which makes the result transductive.

    The ``overrides`` are those of the corpus, as in training, and ``map.calm=neutral``. Without ``output`` the folder
    is ``outputs/evaluation/<trained>-on-<tested>/<variant>/fold<k>/seed<s>``.

    Raises:
        SerError: the corpus cannot be read, has seen speakers or no two shared classes, or the folder is another's.
    """
    started = time.time()
    settings, mapping, frames = _settings(overrides)
    cfg = compose_config(settings)
    corpus: Corpus = instantiate(cfg, "data")
    tested, labels, name = tested_name(cfg, corpus), corpus.fingerprint(), trained.name
    place = Path(f"{trained.corpus}-on-{tested}", str(name["variant"]), f"fold{name['fold']}", f"seed{name['seed']}")
    folder = output or Path(cfg.paths.outputs) / "evaluation" / place
    _refuse_others(folder)
    classes = SharedClasses.of(trained.recognizer.emotions, corpus.emotions, mapping)
    if isinstance(trained.encoder, FrameFiles) and frames:
        trained.encoder.root = Path(frames).expanduser()
    corpus, extraction, left_out, overlap = _unseen(trained, corpus, cfg, classes, allow_seen, leave_out_seen)
    shared = replace(
        corpus, utterances=tuple(replace(u, emotion=classes.of_label[u.emotion]) for u in corpus.utterances)
    )
    table, pooled = predict_corpus(trained.recognizer, shared, extraction.cache, classes)
    flags = [name for name, given in (("--allow-seen", allow_seen), ("--leave-out-seen", leave_out_seen)) if given]
    facts = {
        **trained.name,
        "trained_on": trained.corpus,
        "corpus": tested,
        "checkpoint": digest_of(trained.path),
        "labels": labels,
        "corpus_fingerprint": corpus.fingerprint(),
        "speaker_overlap": overlap,
        "transductive": trained.recognizer.config.kind == "speaker",
        "trusted_frames": len(extraction.trusted),
        "left_out": len(left_out),
        "only_model": classes.only_model,
        "only_corpus": classes.only_corpus,
        "seen_checked": trained.recordings is not None,
        "command": shlex.join(["ser", "evaluate", *overrides, "--checkpoint", str(trained.path), *flags]),
        "seconds": round(time.time() - started, 1),
    }
    _write(folder, shared, table, pooled, facts, left_out)
    return load_run(folder)


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that is neither new nor an evaluation's, finished or killed: that begins with its split.json."""
    split = read_json(folder / "split.json") or {}
    if str(split.get("hash")).startswith(_HASH) or not folder.exists():
        return
    if not folder.is_dir() or set(folder.iterdir()) - set(leftovers(folder)):
        raise SerError(f"{folder} holds something else, expected a new folder or an earlier evaluation; give --output.")


def _unseen(
    trained: Trained, corpus: Corpus, cfg: DictConfig, classes: SharedClasses, allow_seen: bool, leave_out_seen: bool
) -> tuple[Corpus, Extraction, dict[str, str], bool]:
    """What is tested, its frames, why others are left out, and whether seen speakers are among the tested.

    Files that were seen are found before any frames are made, copies in other formats by their frames.
    """
    left_out = {u.id: f"labelled {u.emotion}" for u in corpus.utterances if u.emotion not in classes.of_label}
    source = corpus.frame_source or trained.encoder
    inside = CacheFolder.of(corpus, source, cfg.paths.cache, cfg.extraction.trust_cache)
    keys = {name: recording_key(recording) for name, recording in inside.recordings.items()}
    known, overlap = _seen(trained, corpus, keys, allow_seen, leave_out_seen)
    corpus, left_out = _not_empty(corpus.without(left_out | known)), left_out | known
    extraction = extract(corpus, trained.encoder, cfg.paths.cache, **cfg.extraction)
    corpus = corpus.without(extraction.failures)
    known, more = _seen(trained, corpus, extraction.cache.signatures(), allow_seen, leave_out_seen)
    return _not_empty(corpus.without(known)), extraction, left_out | extraction.failures | known, overlap or more


def _seen(
    trained: Trained, corpus: Corpus, keys: Mapping[str, str], allow_seen: bool, leave_out_seen: bool
) -> tuple[dict[str, str], bool]:
    """Utterances to leave out because their speakers were seen, with the reason, and whether seen ones are tested."""
    seen = seen_speakers(trained, corpus, keys)
    if seen and not (allow_seen or leave_out_seen):
        count = sum(u.speaker in seen for u in corpus.utterances)
        raise SeenSpeakersError(
            f"{count} of {len(corpus.utterances)} utterances are by {len(seen)} speaker(s) whom {trained.path} was "
            f"trained or validated on ({listed(sorted(seen), 4)}), expected unseen ones; --leave-out-seen tests the "
            "others, --allow-seen tests all and labels the result."
        )
    if not leave_out_seen:
        return {}, bool(seen)
    return {u.id: "its speaker was seen in training" for u in corpus.utterances if u.speaker in seen}, False


def _not_empty(corpus: Corpus) -> Corpus:
    """The corpus; an empty one is refused."""
    if not corpus.utterances:
        raise SerError(f"no utterance of {corpus.name} is left to test on, expected some; give other data.")
    return corpus


def predict_corpus(
    recognizer: Recognizer, corpus: Corpus, cache: FeatureCache, classes: SharedClasses
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Prediction table and pooled features (n, P) of a corpus of shared classes, in its order; none of ONNX files.

    Raises:
        SerError: the corpus brings its own frames and they have another width than the model's.
    """
    if cache.dim != recognizer.config.input_size:
        raise SerError(
            f"the frames of {corpus.name} have {cache.dim} values, the model expects {recognizer.config.input_size}; "
            "give a model that was trained on such frames."
        )
    found: list[np.ndarray] = [np.empty(0)] * len(corpus.utterances)
    pooled: list[np.ndarray | None] = [None] * len(found)
    for statistics, rows in _by_statistics(recognizer, corpus.utterances, cache):
        lengths = [cache.lengths[corpus.utterances[row].id] for row in rows]
        for batch in length_batches(lengths, _BATCH_FRAMES):
            places = [rows[place] for place in batch]
            frames = [torch.from_numpy(cache.read(corpus.utterances[place].id)).float() for place in places]
            answer = recognizer.score(frames, statistics)
            for index, place in enumerate(places):
                found[place] = answer.probabilities[index]
                pooled[place] = None if answer.pooled is None else answer.pooled[index]
    probabilities = classes.shared_probabilities(np.stack(found))
    table = prediction_table(corpus.utterances, classes.emotions, probabilities)
    return table, np.stack([row for row in pooled if row is not None]) if pooled[0] is not None else None


def show_evaluation(run: Run) -> None:
    """Print what was tested and left out, the scores, and where they lie."""
    console, facts = get_console(), run.metrics
    name, _ = name_and_settings(facts["variant"])
    lines = [f"{name}, fold {facts['fold']}, seed {facts['seed']}: {run.origin}", *evaluation_notes(run)]
    lines += warnings_in(declared([run]))
    console.print("\n".join(lines), highlight=False, markup=False)
    _, speakers = speaker_tables(facts["speakers"])
    show([*score_tables(run), *([speakers] if len(speakers.rows) <= _MOST_SPEAKERS else [])])
    where = f"predictions.csv, metrics.json and more in {run.folder}\na page of it: ser report {run.folder}"
    console.print(where, soft_wrap=True, highlight=False, markup=False)


def _settings(overrides: Sequence[str]) -> tuple[list[str], dict[str, str], str]:
    """The overrides of the corpus, and those of the mapping of classes and of the folder of frames."""
    maps = [word for word in overrides if word.startswith(("map=", "map."))]
    frames = [word for word in overrides if word.startswith("features.root=")]
    others = [word for word in overrides if word not in (*maps, *frames)]
    for word in others:
        if re.split("[.@=]", word.lstrip("+~"))[0] not in _KEYS:
            raise SerError(
                f"{word} was given, expected data=, data.root=, paths.cache=, map.calm=neutral or, for a model of "
                "features=files, features.root=; the model keeps its own features and normalisation."
            )
    try:
        mapping = OmegaConf.to_container(OmegaConf.from_dotlist(maps)) if maps else {}
        found = mapping.get("map") if isinstance(mapping, dict) else None
        mapped = {str(key): str(value) for key, value in (found or {}).items()}
    except (OmegaConfBaseException, AttributeError, ValueError) as error:
        raise SerError(f"{' '.join(maps)} was given, expected classes such as map.calm=neutral.") from error
    return others, mapped, "".join(frames).removeprefix("features.root=")


def _by_statistics(
    recognizer: Recognizer, utterances: Sequence[Utterance], cache: FeatureCache
) -> Iterator[tuple[FrameStatistics, list[int]]]:
    """Rows that share statistics: all of them, or those of each speaker where training normalised so."""
    if recognizer.config.kind != "speaker":
        yield recognizer.config.statistics, list(range(len(utterances)))
        return
    fitted = SpeakerNormalization().fit(cache, utterances, utterances)
    for speaker, number in fitted.row_of_speaker.items():
        own = [row for row, utterance in enumerate(utterances) if utterance.speaker == speaker]
        yield FrameStatistics(fitted.mean[number], fitted.std[number], "speaker"), own


def _write(
    folder: Path,
    corpus: Corpus,
    table: pd.DataFrame,
    pooled: np.ndarray | None,
    facts: Mapping[str, Any],
    left_out: Mapping[str, str],
) -> None:
    """Write the folder: split.json, by which it is known, comes first and metrics.json last."""
    emotions = emotions_of(table)
    part = part_record(corpus.utterances, emotions)
    split = {
        "corpus": facts["corpus"],
        "corpus_fingerprint": facts["corpus_fingerprint"],
        "emotions": emotions,
        "left_out": dict(left_out),
        "parts": {"test": part},
        "hash": f"{_HASH} {part['hash']}",
    }
    with write_errors(folder):
        for path in [folder / name for name in _RESULTS] + leftovers(folder):
            path.unlink(missing_ok=True)
    write_json(folder / "split.json", split)
    write_predictions(folder / "predictions.csv", table)
    if pooled is not None:
        write_embeddings(folder / "embeddings.npy", pooled)
    metrics = {"test": scores_with_interval(table), "speakers": cross_speaker(table), **facts}
    write_json(folder / "metrics.json", metrics)
