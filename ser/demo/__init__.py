"""A page in the browser for trained models: microphone, files, folders, history, model card.

Every text of the page is in texts.json, in English and Chinese; ``text`` looks it up.
"""

import json
from pathlib import Path

from ser.emotions import chinese_name

LANGUAGES = {"en": "English", "zh": "中文"}
_TEXTS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("texts.json").read_text(encoding="utf-8"))


def text(language: str, key: str, **values: object) -> str:
    """The text ``key`` in a language, with its values filled in."""
    return _TEXTS[key][language].format(**values)


def emotion_name(language: str, emotion: str) -> str:
    """An emotion as it is called in a language; a name without translation stays as it is."""
    return chinese_name(emotion) if language == "zh" else emotion


def model_name(language: str, name: str) -> str:
    """A model of the page's list as it is called in a language: those of the user have the name of their folder."""
    return text(language, "shipped_model") if name == text("en", "shipped_model") else name
