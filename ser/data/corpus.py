"""Utterances and corpora: what every corpus parser produces and everything else takes."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class About(NamedTuple):
    """What a model trained on a corpus must say of it."""

    licence: str  # in words
    hub_licence: str = "other"  # as the Hugging Face Hub names it
    language: str | None = None  # as the Hub names it
    speech: str | None = None  # who speaks what; None: not known


_MADE_UP = About("The synthetic corpus is made by the program and has no licence.")
_UNKNOWN = About("See the licence of the corpus before you pass the model on.")
_CORPORA = {
    "iemocap": About(
        "IEMOCAP is licensed by USC for research and may not be passed on; read its licence before you pass on a model "
        "trained on it.",
        language="en",
        speech="ten actors in pairs, partly improvising, in American English",
    ),
    "ravdess": About(
        "RAVDESS is CC BY-NC-SA 4.0 (Livingstone & Russo 2018): attribution, no commercial use.",
        "cc-by-nc-sa-4.0",
        "en",
        "24 professional actors who speak two sentences in a studio, in North American English",
    ),
    "emodb": About(
        "EMO-DB (Burkhardt et al. 2005) is free for research; cite it.",
        language="de",
        speech="ten actors who speak ten sentences, in German",
    ),
    "synthetic": _MADE_UP,
    "synthetic_features": _MADE_UP,
}
_WOMEN = "f female woman w weiblich frau femme féminin femenino femenina mujer 女 女性 女声"
_MEN = "m male man männlich maennlich mann homme h masculin masculino hombre 男 男性 男声"
_GENDERS = dict.fromkeys(_WOMEN.split(), "F") | dict.fromkeys(_MEN.split(), "M") | {"": "", "unknown": "", "未知": ""}


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled segment of speech by one speaker."""

    id: str  # unique inside its corpus
    path: Path  # the audio file
    emotion: str  # one of the corpus's emotion names
    speaker: str  # who speaks, unique inside the corpus
    session: int  # recording session, or speaker group in corpora without sessions, from 1
    gender: str  # ``"F"``, ``"M"`` or ``""`` where unknown
    seconds: float = 0.0  # length; 0 where the file header could not be read
    start: float = 0.0  # where the utterance begins inside the file, in seconds
    end: float | None = None  # where it ends, in seconds; None means the end of the file
    frames: Path | None = None  # file of its frames below features.root, for features=files; None: found by id
    partition: str = ""  # train, validation or test where the corpus says so (protocol=given), else empty
    corpus: str = ""  # where it comes from, in a corpus of several; else empty


class FrameSource(Protocol):
    """Makes the frames of utterances that have no audio (the synthetic features)."""

    dim: int  # values per frame (D)
    frame_rate: float  # frames per second

    def description(self) -> dict[str, Any]:
        """Plain settings that determine every frame; they are part of the cache fingerprint."""

    def frames(self, utterances: Sequence[Utterance]) -> Iterator[tuple[Utterance, "Tensor"]]:
        """Yield each utterance with its frames (L, D)."""


@dataclass(frozen=True)
class Corpus:
    """A named list of utterances; ``emotions`` fixes the class order everywhere."""

    name: str  # of the corpus, and of its folder in the cache
    emotions: tuple[str, ...]  # the classes
    utterances: tuple[Utterance, ...]  # all of them
    frame_source: FrameSource | None = None  # makes the frames where there is no audio
    parts: "tuple[tuple[str, Corpus], ...]" = ()  # of several corpora; ids without the name in front

    @property
    def corpora(self) -> list[str]:
        """The corpora that the utterances are from, in order; one empty name where it is one corpus."""
        return list(dict.fromkeys(utterance.corpus for utterance in self.utterances))

    @property
    def sessions(self) -> list[int]:
        """The session numbers that occur, ascending."""
        return sorted({utterance.session for utterance in self.utterances})

    @property
    def speakers(self) -> list[str]:
        """The speakers that occur, sorted."""
        return sorted({utterance.speaker for utterance in self.utterances})

    def summary(self) -> str:
        """Its size in one line: utterances, hours, speakers, sessions, and utterances per emotion."""
        counts = Counter(utterance.emotion for utterance in self.utterances)
        hours = sum(utterance.seconds for utterance in self.utterances) / 3600
        emotions = ", ".join(f"{counts[emotion]:,} {emotion}" for emotion in self.emotions)
        return (
            f"{self.name}: {len(self.utterances):,} utterances, {hours:.1f} h, {len(self.speakers)} speakers, "
            f"{len(self.sessions)} sessions ({emotions})"
        )

    def without(self, ids: Iterable[str]) -> "Corpus":
        """The same corpus without the utterances named by ``ids``."""
        left_out = set(ids)
        kept = tuple(utterance for utterance in self.utterances if utterance.id not in left_out)
        parts = tuple(
            (name, part.without(u.id for u in part.utterances if f"{name}/{u.id}" in left_out))
            for name, part in self.parts
        )
        return replace(self, utterances=kept, parts=parts)

    def fingerprint(self) -> str:
        """Hash of ids, emotions, speakers, genders, sessions and boundaries; not of where files lie."""
        rows = [(u.id, u.emotion, u.speaker, u.gender, u.session, u.start, u.end) for u in self.utterances]
        return hashlib.sha256(json.dumps([self.emotions, sorted(rows)]).encode()).hexdigest()[:16]


def about(corpus: str) -> About:
    """What is known of the corpus of that name."""
    return _CORPORA.get(corpus, _UNKNOWN)


def find_gender(word: str) -> str | None:
    """``F``, ``M`` or "" (unknown) for a word of English, German, French, Spanish or Chinese; None for any other."""
    return _GENDERS.get(unicodedata.normalize("NFC", word.strip()).lower())
