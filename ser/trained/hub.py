"""A trained model as a Hugging Face folder: weights, description, and a model card with the run's figures."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ser.config import CONFIG_FOLDER, compose_options
from ser.data.corpus import about
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError
from ser.evaluation.report.cells import Table, sentence
from ser.evaluation.report.page_tables import split_table
from ser.evaluation.report.render import to_markdown
from ser.evaluation.report.tables import cross_validation_table, run_tables
from ser.inference.checkpoint import SYNTHETIC, score_line, to_plain, told_settings
from ser.inference.engines import frames_of_test_sound
from ser.inference.recognizer import Recognizer
from ser.io import json_text, require_json, write_errors, write_tensors
from ser.metrics import TITLES

_METRICS = {"uar": "recall", "wa": "accuracy", "macro_f1": "f1"}  # names of the Hub


def export_hub(recognizer: Recognizer, folder: str | Path, run: str | Path | None = None) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` over an earlier export; other files in it stay.

    The folder appears whole or not at all. The card quotes metrics.json and split.json of ``run``.

    Raises:
        SerError: the model is an ONNX file, ``folder`` holds something else, or it cannot be written.
    """
    folder = Path(folder)
    network = recognizer.network
    if folder.exists() and any(folder.iterdir()) and not (folder / "model.safetensors").is_file():
        raise SerError(
            f"{folder} holds something else, expected an empty folder or an earlier export; choose another --output."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = temporary.with_suffix(".old")
    weights = {name: value.cpu().contiguous().numpy() for name, value in network.state_dict().items()}
    try:
        with write_errors(folder):
            temporary.mkdir(parents=True)
            write_tensors(temporary / "model.safetensors", weights, {"format": "pt"})
            (temporary / "config.json").write_text(json_text(_portable(recognizer, run)), encoding="utf-8")
            (temporary / "README.md").write_text(model_card(recognizer, run), encoding="utf-8")
            for kept in folder.iterdir() if folder.exists() else ():  # a licence, notes
                if kept.is_file() and not (temporary / kept.name).exists():
                    shutil.copy2(kept, temporary / kept.name)
            if folder.exists():
                folder.rename(replaced)  # a folder cannot be renamed over another one
            temporary.rename(folder)
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
    return folder


def _portable(recognizer: Recognizer, run: str | Path | None) -> dict[str, Any]:
    """The description for another machine: the encoder by its id on the Hub, and by the frames it makes."""
    plain: dict[str, Any] = to_plain(recognizer.config.plain)
    if isinstance(recognizer.encoder, PretrainedEncoder):
        plain["encoder"]["checkpoint"] = _hub_id(plain["encoder"]["checkpoint"], run)
        plain["encoder_frames"] = [float(f"{value:.4g}") for value in frames_of_test_sound(recognizer.encoder).tolist()]
    return plain


def _hub_id(checkpoint: str, run: str | Path | None) -> str:
    """The id of an encoder: as given, or of a local folder that of the ``features`` option that the run chose."""
    if not Path(checkpoint).is_absolute():
        return checkpoint
    chosen = (_record(run, "run.json").get("choices") or {}).get("features")
    option = CONFIG_FOLDER / "features" / f"{chosen}.yaml"
    known = compose_options({"features": chosen})[0].features.get("checkpoint") if option.is_file() else None
    return str(known) if known else Path(checkpoint).name


def model_card(recognizer: Recognizer, run: str | Path | None = None) -> str:
    """The README of an exported model, in Markdown with the Hub's header."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415  only cards and pages need it

    facts, corpus = _portable(recognizer, run), str(recognizer.config.plain.get("corpus"))
    metrics, split = (_record(run, name) for name in ("metrics.json", "split.json"))
    settings = told_settings(facts["encoder"])
    checkpoint = settings.get("checkpoint")
    if checkpoint and Path(checkpoint).is_absolute():  # no local path in a public card
        checkpoint = settings["checkpoint"] = Path(checkpoint).name
    network, encoder = (str(facts[part]["_target_"]).rpartition(".")[2] for part in ("network", "encoder"))
    title = f"{corpus}, {network} on {encoder}"
    fold = f", fold {facts.get('fold')}" + (f" of {split['folds']}" if "folds" in split else "")
    scores, remark = _results(facts, metrics)
    options: Any = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, **options)
    return environment.get_template("model_card.md.j2").render(
        facts=facts,
        metrics=metrics,
        corpus=corpus,
        title=title,
        header=_header(corpus, metrics, title),
        fold=" (nobody is held out)" if "cross_validation" in facts else fold,
        parts=_tables([split_table(split)]) if "parts" in split else "",
        scores=_tables(scores),
        remark=remark,
        network=network,
        encoder=encoder,
        settings=settings,
        checkpoint=checkpoint,
        parameters=sum(value.numel() for value in recognizer.parameters()),
        recognizer=recognizer,
        heard=about(corpus).speech,
        synthetic=sentence(SYNTHETIC),
        licence=about(corpus).licence,
    )


def _header(corpus: str, metrics: Mapping[str, Any], title: str) -> str:
    """The YAML by which the Hub finds the model and shows its scores."""
    split = next((part for part in ("test", "cross_validation") if metrics.get(part)), "")
    results = [
        EvalResult("audio-classification", corpus, corpus, name, found, metric_name=TITLES[key], dataset_split=split)
        for key, name in _METRICS.items()
        if split and (found := metrics[split].get(key)) is not None
    ]
    data = ModelCardData(
        language=about(corpus).language,
        license=about(corpus).hub_licence,
        library_name="ser-lab",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition"],
        datasets=[corpus],
        metrics=list(_METRICS.values()),
        model_name=title,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _results(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[list[Table], str]:
    """Tables of scores, and the sentence below them."""
    if "cross_validation" in facts:
        record = facts["cross_validation"]
        return [cross_validation_table(record)] if record else [], sentence(score_line(record))
    if "test" not in metrics:
        return [], "The checkpoint was exported without a tested run, so there are no figures."
    return run_tables(metrics), "The test part was used for nothing but these tables."


def _tables(tables: Sequence[Table]) -> str:
    return to_markdown(tables).replace("## ", "### ").strip()


def _record(run: str | Path | None, name: str) -> dict[str, Any]:
    if run is None or not (Path(run) / name).is_file():
        return {}
    return require_json(Path(run) / name, "the card would lack its figures, so train the run again")
