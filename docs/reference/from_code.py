"""MkDocs hook: the pages of the ``ser`` command and of all error messages, read from the code."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from ser.cli.sweep import SWEEP_USAGE

ROOT = Path(__file__).resolve().parents[2]
_CLASSES = {"SerError", "AudioError", "UnfitWaveform", "UntestedRunError"}  # of errors for users
_CALLS = {  # what functions add to a message
    "remedy": "on a machine with internet run `hf download ⟨checkpoint⟩ --local-dir FOLDER`, then name that folder "
    "(features.checkpoint=FOLDER for training, --encoder FOLDER for use)",
    "nearest": "the key that was probably meant is named",
}
_REMEDIES = {  # of messages that end in what was found out while the program ran, by a phrase of theirs
    "has no such key": "use the key that the message names; [every setting](configuration.md) is listed",
    "has no such option": "use one of the options that the message lists",
    "the manifest": "correct `data.manifest`; in the folder of a corpus, `data.root`",
    "no recording named like": "set `data.root` to the folder of such recordings",
    "needs its folder": "set `data.root`, or the variable that the message names",
    "is not usable here": "train and extract with `extraction.device=cpu trainer=cpu`, use a model with `--device cpu`",
    "could be encoded": "see `failures.csv` of the cache: the reason of each file",
    "has format": "measure again with `ser probe RUN`",
    "has no ⟨": "measure again with `ser probe RUN`",
    "is not readable JSON": "repeat the command that wrote it: `ser train` a run, `ser probe` its probe",
    "has no valid": "repeat the command that wrote it: `ser train` a run, `ser probe` its probe",
    "holds the interpolation": "do not use it: the file was not written by `ser train`",
    "has a damaged run": "repeat the sweep; finished runs are skipped",
    "runs can be read": "repeat the sweep; finished runs are skipped",
}
# Where in the code an error message comes from: the heading it is listed under. The first that fits counts.
TOPICS = {
    "ser/data/corpora": "Corpora and manifests",
    "ser/data/audio.py": "Audio files",
    "ser/data/protocols.py": "Splits: folds, speakers, duplicates",
    "ser/data/split.py": "Splits: folds, speakers, duplicates",
    "ser/data": "Frames: extraction, cache, batches",
    "ser/extraction": "Frames: extraction, cache, batches",
    "ser/encoders": "Encoders",
    "ser/evaluation": "Reports, comparisons and figures",
    "ser/inference/onnx.py": "Export",
    "ser/trained/hub.py": "Export",
    "ser/inference/onnx_graph.py": "Export",
    "ser/trained": "Trained models on other data",
    "ser/inference": "Prediction and live use",
    "ser/demo": "Prediction and live use",
    "ser/config/identity.py": "Run folders, resuming and reproducing",
    "ser/run/": "Run folders, resuming and reproducing",
    "ser/io.py": "Run folders, resuming and reproducing",
    "ser/cli/train.py": "Sweeps and searches",
    "ser/cli/sweep.py": "Sweeps and searches",
    "ser/cli/progress.py": "Sweeps and searches",
    "ser/models": "Networks and checkpoints",
    "ser/cli": "The ser command",
    "ser/": "Configuration and training",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages to the site."""
    for name, content in (("cli", commands()), ("errors", errors())):
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def commands() -> str:
    """Return the page of the ``ser`` command, as typer documents it, with the examples as code."""
    words = [sys.executable, "-m", "typer", "ser.cli", "utils", "docs", "--name", "ser", "--title", "The ser command"]
    text = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"\*\*Commands\*\*:.*?(?=\n## )", "", text, flags=re.S)  # cut in their middle; the headings say it
    # These two hand their arguments on to Hydra.
    train = "```console\n$ ser train [-m] [KEY=VALUE]...\n```\n\n[Every setting](configuration.md) is a KEY=VALUE.\n\n"
    for name, usage in (("train", train), ("sweep", f"```text\n{SWEEP_USAGE}```\n\n")):
        text = re.sub(rf"(?s)(## `ser {name}`.*?)\*\*Usage\*\*.*?(?=## )", rf"\g<1>{usage}", text)
    text = re.sub(r"(?:\[cyan\].*?\[/\]\s*)+", lambda found: _examples(found[0]), text)
    text = re.sub(r"\[bold\](.*?)\[/\]", r"\1:", text)
    return re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"`\1`", text)


def _examples(block: str) -> str:
    lines = re.findall(r"\[cyan\](.*?)\[/\]", block)
    return "\n".join(["```bash", *(line.replace("\\[", "[") for line in lines), "```"]) + "\n\n"


def errors() -> str:
    """Return the page of all error messages, by topic, with what to do."""
    topics: dict[str, list[str]] = {topic: [] for topic in dict.fromkeys(TOPICS.values())}
    for file in sorted((ROOT / "ser").rglob("*.py")):
        name = str(file.relative_to(ROOT))
        topic = next(topic for start, topic in TOPICS.items() if name.startswith(start))
        topics[topic] = list(dict.fromkeys([*topics[topic], *filter(_has_words, map(_row, messages(file)))]))
    parts = [(ROOT / "docs/reference/errors.intro.md").read_text(encoding="utf-8")]
    for topic in sorted(topics):
        parts.append(f"## {topic}")
        parts.append("\n".join(["| message | what to do |", "|---|---|", *topics[topic]]))
    return "\n\n".join(parts) + "\n"


def messages(file: Path) -> list[str]:
    """The messages of the errors for users that a module raises; what is filled in stands in angle brackets."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    constants = {
        statement.targets[0].id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
    }
    calls = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args and node.func.id in _CLASSES
    )
    found = [_text(call.args[0], constants) for call in sorted(calls, key=lambda call: call.lineno)]
    return [message for message in found if re.search(r"[a-z]{3,} [a-z]", re.sub("⟨.*?⟩", "", message))]


def _text(node: ast.AST, constants: dict[str, Any]) -> str:
    if isinstance(node, ast.JoinedStr | ast.BinOp):
        parts = node.values if isinstance(node, ast.JoinedStr) else [node.left, node.right]
        return "".join(_text(part, constants) for part in parts)
    if isinstance(node, ast.FormattedValue) and not isinstance(node.value, ast.BinOp):  # a sum is a number
        return _text(node.value, constants)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), ast.Constant | ast.JoinedStr):
        return _text(constants[node.id], constants)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        return _CALLS[node.func.id]
    names = [part.attr if isinstance(part, ast.Attribute) else part.id for part in ast.walk(node) if _named(part)]
    return f"⟨{names[0].strip('_').lower()}⟩" if len(names) == 1 or isinstance(node, ast.Attribute) else "⟨…⟩"


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute | ast.Name)


def _row(message: str) -> str:
    given, separator, remedy = message.rpartition("; ")
    if not separator:
        given, separator, remedy = message.partition(", expected ")
        remedy = remedy and f"expected {remedy}"
    if not re.search(r"[a-z]{4}", re.sub("⟨.*?⟩", "", remedy)):
        remedy = next(remedy for phrase, remedy in _REMEDIES.items() if phrase in message) + "."
    remedy = re.sub(r"(?<!`)pip install '[^']*'", r"`\g<0>`", remedy)
    return f"| {cell(given if separator else message)} | {cell(remedy[:1].upper() + remedy[1:])} |"


def _has_words(row: str) -> bool:
    return not row.startswith("| ⟨…⟩ |")  # nobody finds such a message here


def cell(text: str) -> str:
    """Text that a cell of a Markdown table can hold."""
    text = re.sub(r"(?<!\w)_(?=\w)|(?<=\w)_(?!\w)", r"\\_", text)  # _target_ is no emphasis
    return text.replace("|", "\\|").replace("<", "&lt;")


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".;") + "."
