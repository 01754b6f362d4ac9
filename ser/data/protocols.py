"""Evaluation protocols: who is tested, who validates, who trains. Folds count from 1."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError

_log = logging.getLogger(__name__)

Parts = tuple[list[Utterance], list[Utterance], list[Utterance]]  # training, validation, test


@dataclass(frozen=True)
class Split:
    """One fold: three parts that share no utterance.

    Attributes:
        train: what the network learns from.
        validation: what the epoch is chosen by.
        test: what is reported; never used to choose anything.
        protocol: name of the protocol that made the split.
        fold: which fold, from 1.
        folds: how many the protocol has on this corpus.
        seed: what the seeded protocols draw by.
        speaker_overlap: whether the protocol declares that training speakers occur in validation or test.
    """

    train: tuple[Utterance, ...]
    validation: tuple[Utterance, ...]
    test: tuple[Utterance, ...]
    protocol: str
    fold: int
    folds: int
    seed: int
    speaker_overlap: bool

    def parts(self) -> dict[str, tuple[Utterance, ...]]:
        """The parts by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


class EvaluationProtocol(ABC):
    """Deals a corpus into parts; :meth:`split` refuses every split that would flatter the result."""

    name: ClassVar[str]
    overlapping_parts: ClassVar[frozenset[str]] = frozenset()
    """The parts whose speakers may also occur in training."""

    @abstractmethod
    def folds(self, corpus: Corpus) -> int:
        """How many folds the corpus gives."""

    @abstractmethod
    def _deal(self, corpus: Corpus, fold: int, seed: int) -> Parts:
        """The parts of a fold that is in range."""

    def split(self, corpus: Corpus, fold: int, seed: int) -> Split:
        """Deal the fold and verify it.

        Raises:
            SerError: the fold is out of range, a part is empty, two parts share an utterance, or a training speaker
                occurs in a part where the protocol does not declare it.
        """
        if len(corpus.speakers) < 2:
            raise SerError(
                f"corpus {corpus.name} has {len(corpus.speakers)} speaker, expected at least 2 so that the "
                "tested one is unseen in training; add recordings of others."
            )
        folds = self.folds(corpus)
        if not 1 <= fold <= folds:
            raise SerError(
                f"fold={fold} does not exist: protocol {self.name} has folds 1 to {folds} on corpus "
                f"{corpus.name}; choose one of them."
            )
        train, validation, test = (tuple(part) for part in self._deal(corpus, fold, seed))
        split = Split(train, validation, test, self.name, fold, folds, seed, bool(self.overlapping_parts))
        self._verify(split)
        missing = [emotion for emotion in corpus.emotions if all(u.emotion != emotion for u in split.train)]
        if missing:
            raise SerError(
                f"fold {fold} of protocol {self.name} has no {', '.join(missing)} utterance to train on, "
                "expected every emotion; leave it out of data.emotions, or use another fold or protocol."
            )
        return split

    def _verify(self, split: Split) -> None:
        parts = split.parts()
        for name, part in parts.items():
            if not part:
                raise SerError(
                    f"fold {split.fold} of protocol {self.name} leaves the {name} part empty, expected "
                    "utterances in all three; use a larger corpus or another protocol."
                )
        shared = [id_ for id_, count in Counter(u.id for part in parts.values() for u in part).items() if count > 1]
        if shared:
            raise SerError(
                f"fold {split.fold} of protocol {self.name} puts utterance {shared[0]} into two parts, "
                "expected one; make the ids of the corpus unique."
            )
        training_speakers = {utterance.speaker for utterance in split.train}
        for name in {"validation", "test"} - self.overlapping_parts:
            seen = sorted(training_speakers & {utterance.speaker for utterance in parts[name]})
            if seen:
                raise SerError(
                    f"in fold {split.fold} of protocol {self.name} the {name} speakers {', '.join(seen)} "
                    "also occur in training, expected unseen ones; give each speaker one session."
                )


class SessionProtocol(EvaluationProtocol):
    """Test on a session, validate on the next one (after the last comes the first), train on the others."""

    name = "session"

    def folds(self, corpus: Corpus) -> int:
        """One a session."""
        return len(corpus.sessions)

    def _deal(self, corpus: Corpus, fold: int, seed: int) -> Parts:
        sessions = corpus.sessions
        if len(sessions) < 3:
            raise SerError(
                f"corpus {corpus.name} has {len(sessions)} session(s), expected at least 3 for the session "
                "protocol (training, validation, test); use protocol=speaker, or number more sessions."
            )
        tested, validated = sessions[fold - 1], sessions[fold % len(sessions)]
        return _by(
            corpus, lambda u: "test" if u.session == tested else "validation" if u.session == validated else "train"
        )


class SpeakerProtocol(EvaluationProtocol):
    """Test on a speaker, validate on the others of that session, train on the other sessions.

    Folds are ordered by session, then by speaker.
    """

    name = "speaker"

    def folds(self, corpus: Corpus) -> int:
        """One a speaker."""
        return len(corpus.speakers)

    def _deal(self, corpus: Corpus, fold: int, seed: int) -> Parts:
        if len(corpus.sessions) < 2:
            raise SerError(
                f"corpus {corpus.name} has 1 session, expected at least 2 for the speaker protocol (one "
                "trains, one tests); number the speakers' sessions."
            )
        first_session: dict[str, int] = {}
        for utterance in sorted(corpus.utterances, key=lambda u: (u.session, u.speaker)):
            first_session.setdefault(utterance.speaker, utterance.session)
        tested = list(first_session)[fold - 1]
        sessions = {utterance.session for utterance in corpus.utterances if utterance.speaker == tested}
        if not any(u.session in sessions and u.speaker != tested for u in corpus.utterances):
            raise SerError(
                f"speaker {tested} is alone in session {min(sessions)} of corpus {corpus.name}, expected "
                "another one to validate on; use protocol=session, which tests one speaker a fold here."
            )
        return _by(
            corpus, lambda u: "test" if u.speaker == tested else "validation" if u.session in sessions else "train"
        )


class SuperbProtocol(EvaluationProtocol):
    """Test on a session, validate on a seeded share of the rest, as SUPERB and EmoBox do (Yang et al. 2021).

    Validation speakers occur in training, test speakers do not. The share is stratified by emotion.
    """

    name = "superb"
    overlapping_parts = frozenset({"validation"})

    def __init__(self, validation_share: float = 0.2) -> None:
        self.validation_share = _share(validation_share, "validation_share")

    def folds(self, corpus: Corpus) -> int:
        """One a session."""
        return len(corpus.sessions)

    def _deal(self, corpus: Corpus, fold: int, seed: int) -> Parts:
        if len(corpus.sessions) < 2:
            raise SerError(
                f"corpus {corpus.name} has 1 session, expected at least 2 for the superb protocol (one is "
                "tested); number the speakers' sessions."
            )
        tested = corpus.sessions[fold - 1]
        rest = [utterance for utterance in corpus.utterances if utterance.session != tested]
        validation = _drawn(rest, 0.0, self.validation_share, f"{seed}:validation")
        return _by(corpus, lambda u: "test" if u.session == tested else "validation" if u.id in validation else "train")


class RandomProtocol(EvaluationProtocol):
    """A seeded random split that ignores speakers; only there to show how misleading it is.

    The test parts of the folds are disjoint. Both shares are stratified by emotion.
    """

    name = "random"
    overlapping_parts = frozenset({"validation", "test"})

    def __init__(self, test_share: float = 0.2, validation_share: float = 0.2) -> None:
        """``test_share`` is of the corpus, ``validation_share`` of what the test part leaves."""
        self.test_share = _share(test_share, "test_share")
        self.validation_share = _share(validation_share, "validation_share")

    def folds(self, corpus: Corpus) -> int:
        """As many as test parts fit into the corpus."""
        return int(1 / self.test_share + 1e-9)

    def _deal(self, corpus: Corpus, fold: int, seed: int) -> Parts:
        test = _drawn(corpus.utterances, (fold - 1) * self.test_share, fold * self.test_share, f"{seed}:test")
        rest = [utterance for utterance in corpus.utterances if utterance.id not in test]
        validation = _drawn(rest, 0.0, self.validation_share, f"{seed}:validation")
        return _by(corpus, lambda u: "test" if u.id in test else "validation" if u.id in validation else "train")


def shared_recordings(split: Split, recordings: Mapping[str, Hashable]) -> list[tuple[Utterance, Utterance]]:
    """Pairs of utterances that are the same recording in two parts, the first of the pair in the earlier part.

    Args:
        split: the parts.
        recordings: what tells recordings apart, per utterance id (``FeatureCache.recordings``).
    """
    first: dict[Hashable, tuple[str, Utterance]] = {}
    pairs = []
    for name, part in split.parts().items():
        for utterance in part:
            where, other = first.setdefault(recordings[utterance.id], (name, utterance))
            if where != name:
                pairs.append((other, utterance))
    return pairs


def refuse_shared_recordings(split: Split, recordings: Mapping[str, Hashable], allowed: bool = False) -> None:
    """Check that no recording occurs in two parts under different names; a warning where that is ``allowed``.

    Raises:
        SerError: naming the first pair.
    """
    pairs = shared_recordings(split, recordings)
    if not pairs:
        return
    one, other = pairs[0]
    text = (
        f"fold {split.fold} has {len(pairs)} recordings in two parts, the first: {one.path} (speaker {one.speaker}) "
        f"and {other.path} (speaker {other.speaker}) have the same content"
    )
    if not allowed:
        raise SerError(f"{text}, expected each recording in one part; remove the copies, or set allow_duplicates=true.")
    _log.warning("%s; the result is too good by that", text)


def split_record(split: Split, corpus: Corpus, left_out: Mapping[str, str], transductive: bool) -> dict[str, Any]:
    """What ``split.json`` holds: who is in which part, and hashes by which two runs can be told to be comparable.

    Args:
        split: the verified split.
        corpus: the corpus it was dealt from.
        left_out: utterances that could not be used, with the reason.
        transductive: whether test speakers' own unlabelled frames are used (normalisation by speaker).
    """
    parts = {name: _part_record(part, corpus.emotions) for name, part in split.parts().items()}
    return {
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint(),
        "emotions": list(corpus.emotions),
        "protocol": split.protocol,
        "fold": split.fold,
        "folds": split.folds,
        "seed": split.seed,
        "speaker_overlap": split.speaker_overlap,
        "transductive": transductive,
        "left_out": dict(left_out),
        "parts": parts,
        "hash": _hash([part["hash"] for part in parts.values()]),
    }


def _part_record(part: tuple[Utterance, ...], emotions: tuple[str, ...]) -> dict[str, Any]:
    counts = Counter(utterance.emotion for utterance in part)
    return {
        "utterances": len(part),
        "seconds": round(sum(utterance.seconds for utterance in part), 3),
        "speakers": sorted({utterance.speaker for utterance in part}),
        "sessions": sorted({utterance.session for utterance in part}),
        "emotions": {emotion: counts[emotion] for emotion in emotions},
        "ids": [utterance.id for utterance in part],
        "hash": _hash(sorted([utterance.id, utterance.emotion] for utterance in part)),
    }


def _hash(content: list[Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _by(corpus: Corpus, part_of: Callable[[Utterance], str]) -> Parts:
    """Deal every utterance to the part that ``part_of`` names, keeping the order."""
    parts: dict[str, list[Utterance]] = {"train": [], "validation": [], "test": []}
    for utterance in corpus.utterances:
        parts[part_of(utterance)].append(utterance)
    return parts["train"], parts["validation"], parts["test"]


def _drawn(utterances: Iterable[Utterance], low: float, high: float, seed: str) -> set[str]:
    """Ids of the stretch from ``low`` to ``high`` (shares) of each emotion's utterances in a seeded order.

    The order is that of a hash of seed and id: the same on every platform and with every library version, and one
    utterance more or less does not reshuffle the others.
    """
    by_emotion: dict[str, list[str]] = {}
    for utterance in utterances:
        by_emotion.setdefault(utterance.emotion, []).append(utterance.id)
    drawn: set[str] = set()
    for ids in by_emotion.values():
        ids.sort(key=lambda id_: hashlib.sha256(f"{seed}:{id_}".encode()).digest())
        drawn.update(ids[round(low * len(ids)) : round(high * len(ids))])
    return drawn


def _share(value: float, name: str) -> float:
    if not 0 < value < 1:
        raise SerError(f"{name}={value} was given, expected a share between 0 and 1; 0.2 is usual.")
    return value
