"""MkDocs hook: the page of all settings, read from conf/ and its comments."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PLUMBING = {"_target_", "_partial_", "defaults"}  # of Hydra, the same in every file


class Setting(NamedTuple):
    """One key of a YAML file: its place, its value as it stands there, the comment on its line or above it."""

    key: str
    value: str
    meaning: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    files.append(File.generated(config, "reference/configuration.md", content=configuration()))
    return files


def configuration() -> str:
    """Return the page of all settings: those of conf/train.yaml, then each group with its options."""
    page, groups = read_settings(CONF / "train.yaml"), group_comments()
    introduction = (ROOT / "docs/reference/configuration.intro.md").read_text(encoding="utf-8")
    ordered = sorted(folder_names(), key=lambda name: (list(groups).index(name.split("/")[0]), name))
    rows = []
    for group in ordered:
        options = ", ".join(file.stem for file in sorted((CONF / group).glob("*.yaml")))
        rows.append(f"| [{group}](#{group.replace('/', '')}) | {options} |")
    parts = [introduction, "## Groups", "\n".join(["| group | options |", "|---|---|", *rows])]
    parts += ["## Top-level keys", "From `conf/train.yaml`.", table(page, {})]
    for group in ordered:
        parts.append(f"## {group}")
        comment = groups.get(group, "")
        if comment:
            parts.append(sentence(comment))
        options = {file.stem: file for file in sorted((CONF / group).glob("*.yaml"))}
        if group.startswith("experiment"):
            rows = [f"| `{group}={name}` | {cell(header(file))} |" for name, file in options.items()]
            parts.append("\n".join(["| option | what it is |", "|---|---|", *rows]))
            continue
        for name, file in options.items():
            parts += [f"### {group}={name}", header(file) and sentence(header(file)), target(file)]
            keys = read_settings(file)
            whole = "@package _global_" in file.read_text(encoding="utf-8")
            prefix = "" if whole else f"{group.replace('/', '.')}."
            parts.append(table([entry._replace(key=f"{prefix}{entry.key}") for entry in keys], meanings(file)))
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
        inner = value.value if isinstance(value, yaml.CollectionNode) and not value.flow_style else []
        if key.value in PLUMBING or "_partial_: true}" in lines[first]:
            continue
        if any(isinstance(item, tuple | yaml.MappingNode) for item in inner):  # block style: keys of their own
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
    based = bases(file)
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


def meanings(file: Path) -> dict[str, str]:
    """Meaning of each key of an option by its last part: its own, and those of the option that it is based on.

    Entries of lists explain themselves: the same name means another thing in another entry.
    """
    found = [entry for entry in read_settings(file) if entry.meaning and not re.search(r"\.\d+\.", entry.key)]
    based = [meanings(file.with_name(f"{name}.yaml")) for name in bases(file)]
    return {**(based[0] if based else {}), **{entry.key.rpartition(".")[2]: entry.meaning for entry in found}}


def bases(file: Path) -> list[str]:
    """The options of its group that an option is based on."""
    content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    return [
        entry for entry in content.get("defaults", []) if isinstance(entry, str) and not re.search("_self_|@", entry)
    ]


def table(settings: list[Setting], inherited: dict[str, str]) -> str:
    """Settings as a Markdown table; empty where there are none."""
    if not settings:
        return ""
    rows = [
        f"| `{entry.key}` | `{entry.value}` | "
        f"{prose(entry.meaning or inherited.get(entry.key.rpartition('.')[2], ''))} |"
        for entry in settings
    ]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def cell(text: str) -> str:
    """Text that a cell of a Markdown table can hold."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def prose(text: str) -> str:
    """The same with braces at its end as code: Markdown would take them for attributes of the cell, and drop them."""
    return re.sub(r"\{[^{}]*\}$", r"`\g<0>`", cell(text))


def sentence(text: str) -> str:
    """Text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) else ".")
