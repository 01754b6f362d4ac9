"""A trained model as a Hugging Face folder: weights, description, and a model card with the run's figures."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from ser.config import CONFIG_FOLDER, compose_options
from ser.encoders.pretrained import PretrainedEncoder
from ser.errors import SerError
from ser.evaluation.report.cells import Table
from ser.evaluation.report.page_tables import split_table
from ser.evaluation.report.render import to_markdown
from ser.evaluation.report.tables import cross_validation_table, run_tables
from ser.inference.checkpoint import SYNTHETIC, score_line, to_plain
from ser.inference.engines import TorchNetwork, frames_of_test_sound
from ser.inference.recognizer import Recognizer
from ser.io import write_tensors
from ser.metrics import TITLES

_LICENCES = {  # language of the corpus, licence as the Hub names it, what the card says of it
    "iemocap": (
        "en",
        "other",
        "IEMOCAP is licensed by USC for research and may not be passed on; read its licence before you pass on a model "
        "trained on it.",
    ),
    "ravdess": (
        "en",
        "cc-by-nc-sa-4.0",
        "RAVDESS is CC BY-NC-SA 4.0 (Livingstone & Russo 2018): attribution, no commercial use.",
    ),
    "emodb": ("de", "other", "EMO-DB (Burkhardt et al. 2005) is free for research; cite it."),
    "synthetic": (None, "other", "The synthetic corpus is made by the program and has no licence."),
    "synthetic_features": (None, "other", "The synthetic corpus is made by the program and has no licence."),
}
_UNKNOWN = (None, "other", "See the licence of the corpus before you pass the model on.")
_METRICS = {"uar": "recall", "wa": "accuracy", "macro_f1": "f1"}  # names of the Hub
_PYTHON = """```bash
pip install ser-lab  # with [export] for ONNX
```

```python
import soundfile
from ser.inference.recognizer import Recognizer

recognizer = Recognizer.from_pretrained("<this folder or Hub id>")
prediction = recognizer(*soundfile.read("a.wav"))
print(prediction.label, prediction.confidence, prediction.probabilities)
```

Without this package, after `ser export --checkpoint <this folder> --with-encoder --output model.onnx`:

```python
import json
import numpy
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("model.onnx")
samples, rate = soundfile.read("a.wav", dtype="float32")
assert rate == 16000 and samples.ndim == 1, "resample to 16 kHz mono first"
inputs = {"waveform": samples[None], "lengths": numpy.array([len(samples)])}
probabilities = session.run(["probabilities"], inputs)[0][0]
emotions = json.loads(session.get_modelmeta().custom_metadata_map["ser_config"])["emotions"]
print(dict(zip(emotions, probabilities.tolist())))
```"""


_SPEECH = {
    "iemocap": "ten actors in pairs, partly improvising, in American English",
    "ravdess": "24 professional actors who speak two sentences in a studio, in North American English",
    "emodb": "ten actors who speak ten sentences, in German",
}


def export_hub(recognizer: Recognizer, folder: str | Path, run: str | Path | None = None) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md`` over an earlier export; other files in it stay.

    The folder appears whole or not at all. The card quotes metrics.json and split.json of ``run``.

    Raises:
        SerError: the model is an ONNX file, ``folder`` holds something else, or it cannot be written.
    """
    folder = Path(folder)
    if not isinstance(recognizer.model, TorchNetwork):
        raise SerError(
            "an ONNX file cannot be exported again, expected a run folder or .ckpt; name one with --checkpoint."
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "model.safetensors").is_file():
        raise SerError(
            f"{folder} holds something else, expected an empty folder or an earlier export; choose another --output."
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = temporary.with_suffix(".old")
    weights = {name: value.cpu().contiguous().numpy() for name, value in recognizer.model.network.state_dict().items()}
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / "model.safetensors", weights, {"format": "pt"})
        config = json.dumps(_portable(recognizer, run), indent=2, ensure_ascii=False)
        (temporary / "config.json").write_text(config + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(model_card(recognizer, run), encoding="utf-8")
        for kept in folder.iterdir() if folder.exists() else ():  # a licence, notes
            if kept.is_file() and not (temporary / kept.name).exists():
                shutil.copy2(kept, temporary / kept.name)
        if folder.exists():
            folder.rename(replaced)  # a folder cannot be renamed over another one
        temporary.rename(folder)
    except OSError as error:
        raise SerError(
            f"could not write {folder}: {error.strerror or error}; free space or choose a writable "
            "folder (what was there before is unchanged)."
        ) from error
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
    facts = _portable(recognizer, run)
    metrics, split = (_record(run, name) for name in ("metrics.json", "split.json"))
    emotions = ", ".join(recognizer.emotions)
    title = f"{facts.get('corpus')}, {_name(facts['network'])} on {_name(facts['encoder'])}"
    sections = [
        f"---\n{_header(facts, metrics, title)}\n---",
        f"# Speech emotion recognition: {title}",
        f"Recognises {emotions} in one speaker's utterance (16 kHz mono; other rates are resampled).",
        "## Use\n\n" + _PYTHON,
        "## Data and protocol\n\n" + _data(facts, split),
        "## Results\n\n" + _results(facts, metrics),
        "## Model\n\n" + _model(recognizer, facts),
        "## Limits\n\n" + _limits(facts, metrics),
        "## Licences\n\n" + _licences(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _header(facts: Mapping[str, Any], metrics: Mapping[str, Any], title: str) -> str:
    """The YAML by which the Hub finds the model and shows its scores."""
    corpus = str(facts.get("corpus"))
    language, licence, _ = _LICENCES.get(corpus, _UNKNOWN)
    split = next((part for part in ("test", "cross_validation") if metrics.get(part)), "")
    results = [
        EvalResult("audio-classification", corpus, corpus, name, found, metric_name=TITLES[key], dataset_split=split)
        for key, name in _METRICS.items()
        if split and (found := metrics[split].get(key)) is not None
    ]
    data = ModelCardData(
        language=language,
        license=licence,
        library_name="ser-lab",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition"],
        datasets=[corpus],
        metrics=list(_METRICS.values()),
        model_name=title,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _data(facts: Mapping[str, Any], split: Mapping[str, Any]) -> str:
    fold = f", fold {facts.get('fold')}" + (f" of {split['folds']}" if "folds" in split else "")
    fold = " (nobody is held out)" if "cross_validation" in facts else fold
    line = f"Corpus {facts.get('corpus')}, protocol `{facts.get('protocol')}`{fold}, seed {facts.get('seed')}."
    return f"{line}\n\n{_tables([split_table(split)])}" if "parts" in split else line


def _results(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if "cross_validation" in facts:
        record = facts["cross_validation"]
        tables = _tables([cross_validation_table(record)]) + "\n\n" if record else ""
        return f"{tables}{_sentence(score_line(record))}."
    if "test" not in metrics:
        return "The checkpoint was exported without a tested run, so there are no figures."
    return f"{_tables(run_tables(metrics))}\n\nThe test part was used for nothing but these tables."


def _tables(tables: Sequence[Table]) -> str:
    return to_markdown(tables).replace("## ", "### ").strip()


def _model(recognizer: Recognizer, facts: Mapping[str, Any]) -> str:
    parameters = sum(value.numel() for value in recognizer.parameters())
    settings = {key: value for key, value in facts["encoder"].items() if key != "_target_"}
    if "checkpoint" in settings:
        settings["checkpoint"] = _public_name(settings["checkpoint"])
    return (
        f"{_name(facts['network'])}, {parameters:,} parameters, on frames of {recognizer.config.input_size} values "
        f"from {_name(facts['encoder'])} ({', '.join(f'{key} {value}' for key, value in settings.items())}), which "
        f"is not contained. Frames are normalised: {recognizer.config.kind}."
    )


def _limits(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lines = [
        "- It says how an utterance sounds in the terms of its corpus; it does not know what anybody feels.",
        *(f"- It has only heard {_SPEECH[corpus]}." for corpus in (facts.get("corpus"),) if corpus in _SPEECH),
        "- It answers for other languages, recording conditions and spontaneous speech too, and less accurately.",
        "- Do not use it for decisions about people: hiring, policing, medicine, education.",
    ]
    if metrics.get("speaker_overlap"):
        lines.append("- Training and test share speakers: the figures are not for unseen speakers.")
    if metrics.get("transductive") or facts["normalization"]["kind"] == "speaker":
        lines.append(
            "- The figures are transductive: each test speaker's unlabelled audio normalised the frames; without it "
            "expect lower figures."
        )
    if facts.get("corpus", "").startswith("synthetic"):
        lines.append(f"- {_sentence(SYNTHETIC)}.")
    return "\n".join(lines)


def _licences(facts: Mapping[str, Any]) -> str:
    corpus = _LICENCES.get(str(facts.get("corpus")), _UNKNOWN)[2]
    encoder = (
        f"The encoder {_public_name(facts['encoder']['checkpoint'])} has a licence of its own."
        if "checkpoint" in facts["encoder"]
        else "The encoder has no pretrained weights."
    )
    return f"{corpus} {encoder} The code is MIT."


def _record(run: str | Path | None, name: str) -> dict[str, Any]:
    if run is None or not (Path(run) / name).is_file():
        return {}
    content: dict[str, Any] = json.loads((Path(run) / name).read_text(encoding="utf-8"))
    return content


def _name(description: Mapping[str, Any]) -> str:
    return str(description["_target_"]).rpartition(".")[2]


def _public_name(checkpoint: str) -> str:
    """A Hub id as it is; of a local folder only the last part, since the card is for strangers."""
    return Path(checkpoint).name if Path(checkpoint).is_absolute() else checkpoint


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
