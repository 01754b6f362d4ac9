"""What was probably meant by an unknown key or option: by its spelling, its parts, or the comments of conf/."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_NEAR = 0.75  # of difflib's ratio
_MOST = 3  # names in one suggestion
_REMARK = re.compile(r"^( *(?:- )?)(\w+):.*?\s#\s*([^;:(\n]+)", re.MULTILINE)  # indent, key, begin of its comment


def nearest_key(key: str, known: Iterable[str], folder: Path) -> str:
    """The end of an error message about an unknown key: those that were probably meant, or all beside it.

    ``known`` are all keys, ``folder`` is conf/.
    """
    parts = {f"data.{file.stem}" for file in (folder / "data").glob("*.yaml")} - {"data.manifest"}  # of data=combined
    hidden = re.compile(r"\b_|\bdefaults$|^data\.\w+\.")
    names = [name for name in sorted(known) if name not in parts and not hidden.search(name)]
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.9):
        return f"did you mean {near[0]}?"
    top, word = re.split(r"[./]", key)[0], re.split(r"[./]", key)[-1]
    inside = [name for name in names if name.startswith(f"{top}.")]
    last: dict[str, list[str]] = {}  # keys by their last part
    for name in inside or names:
        last.setdefault(name.rpartition(".")[2], []).append(name)
    beside = inside or [name for name in names if "." not in name and "/" not in name]
    scopes = [dict.fromkeys(last, "")] if inside else [dict.fromkeys(beside, ""), dict.fromkeys(last, "")]
    for file in [folder / "train.yaml", *sorted(folder.glob(f"{top}/*.yaml" if inside else "*/*.yaml"))]:
        for indent, name, remark in _REMARK.findall(file.read_text(encoding="utf-8")):
            own = inside or (file.parent == folder and indent in ("", "  - "))
            scope = scopes[0] if own else scopes[-1]
            if name in scope:
                scope[name] += f"{remark}. "
    found = [name for leaf in meant(word, *scopes) for name in ([leaf] if leaf in beside else _usual(last[leaf]))]
    if 0 < len(found) <= _MOST:
        return f"did you mean {_either(found)}?"
    return f"known are {', '.join(name for name in beside if name.count('.') <= 1) or 'none'}."


def _usual(keys: list[str]) -> list[str]:
    """Of keys with one last part: the optimizer's, else all of a few, else those that are nested least."""
    least = min(key.count(".") for key in keys)
    few = keys if len(keys) <= _MOST else [key for key in keys if key.count(".") == least]
    return [key for key in keys if key.startswith("optimizer.")] or few


def options_of_groups(folder: Path) -> dict[str, list[str]]:
    """The options of every group of conf/ by its key: files, for experiments also those of folders in it."""
    found: dict[str, list[str]] = {}
    for file in sorted(folder.glob("*/**/*.yaml")):
        group, _, option = file.relative_to(folder).with_suffix("").as_posix().rpartition("/")
        if group.startswith("experiment/"):
            group, option = "experiment", f"{group.removeprefix('experiment/')}/{option}"
        if not group.startswith("hydra"):
            found.setdefault(group, []).append(option)
    return found


def nearest_option(group: str, option: str, folder: Path) -> str:
    """The end of an error message about an unknown option of a group: those that were probably meant, or all."""
    files = {name: folder / group / f"{name}.yaml" for name in options_of_groups(folder).get(group, ())}
    remarks = {
        name: " ".join(re.findall(r"^# (?!@)(.*)", file.read_text("utf-8"), re.M)) for name, file in files.items()
    }
    elsewhere = [f"{file.parent.name}={option}" for file in sorted(folder.glob("*/*.yaml")) if file.stem == option]
    if found := meant(option, remarks):
        return f"did you mean {_either(found)}? {remarks[found[0]] if len(found) == 1 else ''}".strip()
    if 0 < len(elsewhere) <= _MOST:
        return f"did you mean {_either(elsewhere)}?"
    return f"known are {', '.join(name for name in files if '/' not in name)}."


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def meant(word: str, *scopes: Mapping[str, str]) -> list[str]:
    """At most three names that a word may stand for: spelled much like it, with its parts, or with it in their remark.

    Each scope has a remark per name; names of the first come before those of the next.
    """
    parts = set(re.split(r"[_/-]", word))
    letters = r"[\W_]*".join(letter for letter in word.rstrip("s") if letter.isalnum())
    for scope in scopes:
        ratios = {name: difflib.SequenceMatcher(None, name, word).ratio() for name in scope}
        best = max(ratios.values(), default=0.0)
        if best >= _NEAR:
            return [name for name, ratio in ratios.items() if ratio == best][:_MOST]
    for scope in scopes:
        split = {name: set(re.split(r"[_/]", name)) for name in scope}
        if 0 < len(found := [name for name in scope if split[name] <= parts or parts <= split[name]]) <= _MOST:
            return found
    for scope in scopes:
        said = [
            name
            for name, remark in scope.items()
            if re.search(rf"(?<![\w-]){letters}(s|es)?(?![\w-])", remark, re.IGNORECASE)
        ]
        for begins in (rf"(^|\. ){letters}\. ", rf"(^|\. ){letters}"):  # a remark that is the word, or begins with it
            said = [name for name in said if re.search(begins, scope[name], re.IGNORECASE)] or said
        if len(letters) > 1 and 0 < len(said) <= _MOST:
            return said
    return []
