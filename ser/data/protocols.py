"""Evaluation protocols: who is tested, who validates, who trains. Folds count from 1."""

import hashlib
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from typing import ClassVar

from ser.data.corpus import Corpus, Utterance
from ser.data.split import Split
from ser.errors import SerError, check_number

log = logging.getLogger(__name__)


class EvaluationProtocol(ABC):
    """Assigns a corpus to parts; ``split`` refuses every split that would make the result too good."""

    name: ClassVar[str]
    overlapping_parts: ClassVar[frozenset[str]] = frozenset()
    """The parts whose speakers may also occur in training."""
    fewest_sessions: ClassVar[int] = 1
    expected_parts: ClassVar[tuple[str, ...]] = ("train", "validation", "test")
    """The parts that may not be empty."""
    more: ClassVar[str] = "use a larger corpus or another protocol"
    """What to do where one is."""
    seeded: ClassVar[bool] = False
    """Whether the parts are drawn by the seed."""

    def folds(self, corpus: Corpus) -> int:
        """How many folds the corpus gives: one per session where a protocol does not say otherwise."""
        return len(corpus.sessions)

    @abstractmethod
    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        """The function that names the part of an utterance, for a fold that is in range."""

    def split(self, corpus: Corpus, fold: int, seed: int) -> Split:
        """One fold, verified.

        Raises:
            SerError: the fold is out of range, a part is empty, two parts share an utterance, or a training speaker
                occurs in a part where the protocol does not declare it.
        """
        if len(corpus.speakers) < 2:
            raise SerError(
                f"corpus {corpus.name} has {len(corpus.speakers)} speaker, expected at least 2 so that the "
                "tested one is unseen in training; add recordings of others."
            )
        if len(corpus.sessions) < self.fewest_sessions:
            raise SerError(
                f"corpus {corpus.name} has {len(corpus.sessions)} session(s), expected at least {self.fewest_sessions} "
                f"for protocol {self.name}; number the speakers' sessions, or use another protocol "
                "(protocol=speaker needs 2)."
            )
        folds = self.folds(corpus)
        if not 1 <= fold <= folds:
            raise SerError(
                f"fold={fold} does not exist: protocol {self.name} has folds 1 to {folds} on corpus "
                f"{corpus.name}; choose one of them."
            )
        part_of = self._assign(corpus, fold, seed)
        parts: dict[str, list[Utterance]] = {"train": [], "validation": [], "test": []}
        for utterance in corpus.utterances:
            parts[part_of(utterance)].append(utterance)
        train, validation, test = map(tuple, parts.values())
        known = {utterance.speaker for utterance in train}
        overlap = any(u.speaker in known for name in self.overlapping_parts for u in parts[name])
        split = Split(train, validation, test, self.name, fold, folds, seed, overlap)
        self._verify(split, corpus.emotions)
        return split

    def _verify(self, split: Split, emotions: tuple[str, ...]) -> None:
        parts, where = split.parts(), f"fold {split.fold} of protocol {self.name}"
        empty = [name for name in self.expected_parts if not parts[name]]
        if empty:
            raise SerError(f"{where} leaves the {empty[0]} part empty, expected utterances in it; {self.more}.")
        counts = Counter(utterance.id for part in parts.values() for utterance in part)
        shared = [identifier for identifier, count in counts.items() if count > 1]
        if shared:
            raise SerError(
                f"{where} puts utterance {shared[0]} into two parts, expected one; make the ids of the corpus unique."
            )
        training_speakers = {utterance.speaker for utterance in split.train}
        for name in {"validation", "test"} - self.overlapping_parts:
            seen = sorted(training_speakers & {utterance.speaker for utterance in parts[name]})
            if seen:
                raise SerError(
                    f"in {where} the {name} speakers {', '.join(seen)} also occur in training, expected unseen ones; "
                    "put all utterances of a speaker into one session and one corpus, or use another protocol."
                )
        missing = [emotion for emotion in emotions if all(u.emotion != emotion for u in split.train)]
        if missing:
            raise SerError(
                f"{where} has no {', '.join(missing)} utterance to train on, expected every emotion; leave it out of "
                "data.emotions, or use another fold or protocol."
            )


class SessionProtocol(EvaluationProtocol):
    """Test on a session, validate on the next one (after the last comes the first), train on the others.

    Of several corpora, the next session is one of the same corpus, if it has two.
    """

    name = "session"
    fewest_sessions = 3

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        tested = corpus.sessions[fold - 1]
        own = {u.corpus for u in corpus.utterances if u.session == tested}
        sessions = sorted({u.session for u in corpus.utterances if u.corpus in own})
        sessions = sessions if len(sessions) > 1 else corpus.sessions
        validated = sessions[(sessions.index(tested) + 1) % len(sessions)]
        return lambda u: "test" if u.session == tested else "validation" if u.session == validated else "train"


class SpeakerProtocol(EvaluationProtocol):
    """Test on a speaker, validate on the others of that session, train on the other sessions.

    Folds are ordered by session, then by speaker.
    """

    name = "speaker"
    fewest_sessions = 2

    def folds(self, corpus: Corpus) -> int:
        """One per speaker."""
        return len(corpus.speakers)

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        ordered = sorted(corpus.utterances, key=lambda u: (u.session, u.speaker))
        tested = list(dict.fromkeys(utterance.speaker for utterance in ordered))[fold - 1]
        sessions = {utterance.session for utterance in corpus.utterances if utterance.speaker == tested}
        if not any(u.session in sessions and u.speaker != tested for u in corpus.utterances):
            raise SerError(
                f"speaker {tested} is alone in session {min(sessions)} of corpus {corpus.name}, expected "
                "another one to validate on; use protocol=session, which tests one speaker per fold here."
            )
        return lambda u: "test" if u.speaker == tested else "validation" if u.session in sessions else "train"


class GivenProtocol(EvaluationProtocol):
    """Train, validation and test as the corpus declares them (a partition column, MSP-Podcast, MELD).

    Where it declares no validation, the last session of its training part is that. Speakers may occur in two parts;
    then the result is labelled as one of overlapping speakers.
    """

    name = "given"
    overlapping_parts = frozenset({"validation", "test"})
    more = "say by data.partitions which values of the column partition are that part, or use another protocol"

    def folds(self, corpus: Corpus) -> int:
        """One."""
        return 1

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        if not all(utterance.partition for utterance in corpus.utterances):
            raise SerError(
                f"corpus {corpus.name} declares no parts, expected train, validation or test for each utterance; add a "
                "column partition to the manifest, or use another protocol."
            )
        if any(utterance.partition == "validation" for utterance in corpus.utterances):
            return lambda u: u.partition
        trained = {utterance.session for utterance in corpus.utterances if utterance.partition == "train"}
        last = max(trained) if len(trained) > 1 else None
        return lambda u: "validation" if u.partition == "train" and u.session == last else u.partition


class CorpusProtocol(EvaluationProtocol):
    """Test on a corpus of ``data=combined``, validate on the last session of each other one, train on their rest.

    A corpus of one session trains only.
    """

    name = "corpus"

    def folds(self, corpus: Corpus) -> int:
        """One per corpus."""
        return len(corpus.corpora)

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        if len(corpus.corpora) < 2:
            raise SerError(
                f"protocol corpus leaves one corpus out, but {corpus.name} is one; use data=combined, a column corpus "
                "in the manifest, or another protocol."
            )
        tested = corpus.corpora[fold - 1]
        sessions: dict[str, set[int]] = {}
        for utterance in corpus.utterances:
            sessions.setdefault(utterance.corpus, set()).add(utterance.session)
        last = {(name, max(found)) for name, found in sessions.items() if name != tested and len(found) > 1}
        return lambda u: "test" if u.corpus == tested else "validation" if (u.corpus, u.session) in last else "train"


class SuperbProtocol(EvaluationProtocol):
    """Test on a session, validate on a seeded fraction of the rest, as SUPERB and EmoBox do (Yang et al. 2021).

    Validation speakers occur in training, test speakers do not. The fraction is stratified by emotion.
    """

    name = "superb"
    seeded = True
    overlapping_parts = frozenset({"validation"})
    fewest_sessions = 2

    def __init__(self, validation_fraction: float = 0.2) -> None:
        check_number("protocol.validation_fraction", validation_fraction, 0.001, 0.999)
        self.validation_fraction = validation_fraction

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        tested = corpus.sessions[fold - 1]
        rest = [utterance for utterance in corpus.utterances if utterance.session != tested]
        validation = _drawn(rest, 0.0, self.validation_fraction, f"{seed}:validation")
        return lambda u: "test" if u.session == tested else "validation" if u.id in validation else "train"


class RandomProtocol(EvaluationProtocol):
    """A seeded random split that ignores speakers; only there to show how misleading it is.

    The test parts of the folds are disjoint fifths, validation is a fifth of the rest; both are stratified by emotion.
    """

    name = "random"
    seeded = True
    overlapping_parts = frozenset({"validation", "test"})

    def folds(self, corpus: Corpus) -> int:
        """Five."""
        return 5

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        test = _drawn(corpus.utterances, (fold - 1) * 0.2, fold * 0.2, f"{seed}:test")
        rest = [utterance for utterance in corpus.utterances if utterance.id not in test]
        validation = _drawn(rest, 0.0, 0.2, f"{seed}:validation")
        return lambda u: "test" if u.id in test else "validation" if u.id in validation else "train"


class EveryoneProtocol(EvaluationProtocol):
    """Train on every speaker. Nothing is left to choose an epoch by or to test on: a sweep must have done that."""

    name = "everyone"
    expected_parts = ("train",)

    def folds(self, corpus: Corpus) -> int:
        """One."""
        return 1

    def _assign(self, corpus: Corpus, fold: int, seed: int) -> Callable[[Utterance], str]:
        return lambda u: "train"


def _drawn(utterances: Iterable[Utterance], low: float, high: float, seed: str) -> set[str]:
    """Ids from the fraction ``low`` to the fraction ``high`` of each emotion's utterances in a seeded order.

    The order is that of a hash of seed and id: the same on every platform and with every library version, and one
    utterance more or less does not reshuffle the others.
    """
    by_emotion: dict[str, list[str]] = {}
    for utterance in utterances:
        by_emotion.setdefault(utterance.emotion, []).append(utterance.id)
    drawn: set[str] = set()
    for ids in by_emotion.values():
        ids.sort(key=lambda identifier: hashlib.sha256(f"{seed}:{identifier}".encode()).digest())
        drawn.update(ids[round(low * len(ids)) : round(high * len(ids))])
    return drawn
