"""MkDocs hook: the pages of the reference that are read from conf/, from the ``ser`` command and from the code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
# Keys of Hydra, and of defaults lists, whose meaning is the same in every file.
PLUMBING = {"_target_", "_partial_", "defaults"}
# Where in the code an error message comes from: the heading it is listed under. The first that fits counts.
TOPICS = {
    "ser/data/corpora": "Corpora and manifests",
    "ser/data/audio.py": "Audio files",
    "ser/data/protocols.py": "Splits: folds, speakers, duplicates",
    "ser/data": "Frames: extraction, cache, batches",
    "ser/encoders": "Encoders",
    "ser/evaluation": "Reports, comparisons and figures",
    "ser/inference/onnx.py": "Export",
    "ser/inference/hub.py": "Export",
    "ser/inference/quantization.py": "Export",
    "ser/inference": "Prediction and live use",
    "ser/demo": "Prediction and live use",
    "ser/run_": "Run folders, resuming and reproducing",
    "ser/io.py": "Run folders, resuming and reproducing",
    "ser/sweeping.py": "Sweeps and searches",
    "ser/launching.py": "Sweeps and searches",
    "ser/models": "Networks and checkpoints",
    "ser/cli.py": "The ser command",
    "ser/": "Configuration and training",
}


class Setting(NamedTuple):
    """One key of a YAML file: its place, its value as it stands there, the comment on its line or above it."""

    key: str
    value: str
    meaning: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    pages = {"configuration": configuration, "cli": commands, "errors": errors}
    for name, write in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    return files


# ---- conf/ -------------------------------------------------------------------------------------------------------


def configuration() -> str:
    """Return the page of all settings: those of conf/train.yaml, then each group with its options."""
    page, groups = read_settings(CONF / "train.yaml"), group_comments()
    introduction = (ROOT / "docs/reference/configuration.intro.md").read_text(encoding="utf-8")
    parts = [introduction, "## Top-level keys", "From `conf/train.yaml`.", table(page, {})]
    for group in sorted(folder_names(), key=lambda name: (list(groups).index(name.split("/")[0]), name)):
        parts.append(f"## {group}")
        comment = groups.get(group, "")
        if comment:
            parts.append(sentence(comment))
        options = {file.stem: file for file in sorted((CONF / group).glob("*.yaml"))}
        if group.startswith("experiment"):
            rows = [f"| `{group}={name}` | {cell(header(file))} |" for name, file in options.items()]
            parts.append("\n".join(["| option | what it is |", "|---|---|", *rows]))
            continue
        meanings = group_meanings(group)
        for name, file in options.items():
            parts += [f"### {group}={name}", header(file) and sentence(header(file)), target(file)]
            keys = read_settings(file)
            whole = "@package _global_" in file.read_text(encoding="utf-8")
            prefix = "" if whole else f"{group.replace('/', '.')}."
            parts.append(table([entry._replace(key=f"{prefix}{entry.key}") for entry in keys], meanings))
    return "\n\n".join(part for part in parts if part) + "\n"


def read_settings(file: Path) -> list[Setting]:
    """Every key of a YAML file that holds a value, nested ones with dots, with the comment that explains it."""
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text)
    return [] if root is None else list(_settings(root, "", text.splitlines()))


def _settings(node: yaml.Node, prefix: str, lines: list[str]) -> Iterator[Setting]:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            name = next((value.value.rpartition(".")[2] for key, value in item.value if key.value == "_target_"), "")
            for entry in _settings(item, f"{prefix}{number}.", lines):
                yield entry._replace(meaning=entry.meaning and f"{name}: {entry.meaning}")
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        name, first = f"{prefix}{key.value}", key.start_mark.line
        nested = isinstance(value, yaml.MappingNode) or (
            isinstance(value, yaml.SequenceNode) and any(isinstance(item, yaml.MappingNode) for item in value.value)
        )
        if key.value in PLUMBING:
            continue
        if nested and value.value:
            yield from _settings(value, f"{name}.", lines)
            continue
        line = lines[value.end_mark.line if value.end_mark.column else value.end_mark.line - 1]
        comment = re.search(r"\s#\s*(.*)$", line)
        above = lines[first - 1].strip() if first else ""
        meaning = comment[1] if comment else above.lstrip("# ") if above.startswith("# ") and first > 1 else ""
        yield Setting(name, _source(value, lines), meaning)


def _source(node: yaml.Node, lines: list[str]) -> str:
    start, end = node.start_mark, node.end_mark
    if start.line != end.line:
        return " ".join(yaml.serialize(node).split())
    return lines[start.line][start.column : end.column]


def header(file: Path) -> str:
    """The comment at the top of a YAML file, as one line; Hydra's package directive is left out."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            found.append(line.lstrip("# ").strip())
    return " ".join(found)


def target(file: Path) -> str:
    """What an option constructs and what it is based on, as Markdown; empty where it does neither."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    based = [entry for entry in content.get("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    made = f"Constructs `{content['_target_']}`. " if "_target_" in content else ""
    made += f"Based on `{file.parent.name}={based[0]}`; below is what differs." if based else ""
    return made.strip()


def folder_names() -> set[str]:
    """The groups of conf/ that a user chooses from."""
    names = {str(file.parent.relative_to(CONF)) for file in CONF.glob("**/*.yaml")} - {"."}
    return {name for name in names if not name.startswith("hydra")}


def group_comments() -> dict[str, str]:
    """What conf/train.yaml says beside each group, in its order."""
    lines = (CONF / "train.yaml").read_text(encoding="utf-8").splitlines()
    found = (re.match(r"  - (?:override )?/?(\w+): \S+\s*(?:#\s*(.*))?$", line) for line in lines)
    return {match[1]: match[2] or "" for match in found if match}


def group_meanings(group: str) -> dict[str, str]:
    """Meaning of each key of a group by its last part: what one option explains is not repeated in the others."""
    found = [entry for file in sorted((CONF / group).glob("*.yaml")) for entry in read_settings(file)]
    return {entry.key.rpartition(".")[2]: entry.meaning for entry in found if entry.meaning}


def table(settings: list[Setting], meanings: dict[str, str]) -> str:
    """Settings as a Markdown table; empty where there are none."""
    if not settings:
        return ""
    rows = [
        f"| `{entry.key}` | `{cell(entry.value)}` | "
        f"{cell(entry.meaning or meanings.get(entry.key.rpartition('.')[2], ''))} |"
        for entry in settings
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def cell(text: str) -> str:
    """Text that a cell of a Markdown table can hold."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".;") + "."


# ---- the ser command ---------------------------------------------------------------------------------------------


def commands() -> str:
    """Return the page of the ``ser`` command, as typer documents it, with the examples as code."""
    words = [sys.executable, "-m", "typer", "ser.cli", "utils", "docs", "--name", "ser", "--title", "The ser command"]
    text = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    text = re.sub(r"(?:\[cyan\].*?\[/\]\s*)+", lambda found: _examples(found[0]), text)
    text = re.sub(r"\[bold\](.*?)\[/\]", r"\1:", text)
    return re.sub(r'<span style="font-weight: bold">(.*?)</span>', r"`\1`", text)


def _examples(block: str) -> str:
    lines = re.findall(r"\[cyan\](.*?)\[/\]", block)
    return "\n".join(["```bash", *(line.replace("\\[", "[") for line in lines), "```"]) + "\n\n"


# ---- error messages ----------------------------------------------------------------------------------------------


def errors() -> str:
    """Return the page of all error messages, by topic, with what to do."""
    topics: dict[str, list[str]] = {topic: [] for topic in dict.fromkeys(TOPICS.values())}
    for file in sorted((ROOT / "ser").rglob("*.py")):
        name = str(file.relative_to(ROOT))
        topic = next(topic for start, topic in TOPICS.items() if name.startswith(start))
        topics[topic] += [row for row in map(_row, messages(file)) if row not in topics[topic]]
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


_CLASSES = {"SerError", "UnfitWaveform", "UntestedRunError"}


def _text(node: ast.AST, constants: dict[str, Any]) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value, constants) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _text(node.value, constants)
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left, constants) + _text(node.right, constants)
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), ast.Constant | ast.JoinedStr):
        return _text(constants[node.id], constants)
    names = [part.attr if isinstance(part, ast.Attribute) else part.id for part in ast.walk(node) if _named(part)]
    return f"⟨{names[0].lower()}⟩" if len(names) == 1 or isinstance(node, ast.Attribute) else "⟨…⟩"


def _named(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute | ast.Name)


def _row(message: str) -> str:
    given, separator, remedy = message.rpartition("; ")
    if not separator:
        given, separator, remedy = message.partition(", expected ")
        remedy = remedy and f"expected {remedy}"
    return f"| {cell(given if separator else message)} | {cell(sentence(remedy) if remedy else '')} |"
