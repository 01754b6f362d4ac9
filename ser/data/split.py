"""A split: three parts of a corpus that share no utterance, the checks on it, and its record."""

import hashlib
import json
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ser.data.corpus import Corpus, Utterance
from ser.errors import SerError, check_number

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """One fold: three parts that share no utterance."""

    train: tuple[Utterance, ...]  # what the network learns from
    validation: tuple[Utterance, ...]  # what the epoch is chosen by
    test: tuple[Utterance, ...]  # what is reported; never used to choose anything
    protocol: str  # name of the protocol that made the split
    fold: int  # which fold, from 1
    folds: int  # how many the protocol has on this corpus
    seed: int  # of the protocols that draw at random
    speaker_overlap: bool  # whether the protocol declares that training speakers occur in validation or test
    auxiliary: tuple[Utterance, ...] = ()  # of other emotions by training speakers, for a second head; never evaluated

    @property
    def other_emotions(self) -> tuple[str, ...]:
        """The emotions of the auxiliary utterances, sorted."""
        return tuple(sorted({utterance.emotion for utterance in self.auxiliary}))

    def parts(self) -> dict[str, tuple[Utterance, ...]]:
        """The parts by name, in the order train, validation, test."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def with_less_training(split: Split, speakers: int | None, fraction: float) -> Split:
    """The split with a smaller training part, for learning curves; validation and test stay.

    It keeps so many training speakers (None: all), and this fraction of their utterances per emotion, at least one. Of
    one seed, smaller parts lie inside larger ones.

    Raises:
        SerError: a number is out of range, or an emotion has no training utterance left.
    """
    train = sorted(split.train, key=lambda u: hashlib.sha256(f"{split.seed}:less:{u.id}".encode()).digest())
    names = list(dict.fromkeys(utterance.speaker for utterance in train))
    check_number("train_speakers", len(names) if speakers is None else speakers, 1, len(names), whole=True)
    check_number("train_fraction", fraction, 0, 1, above=True)
    if speakers is None and fraction == 1:
        return split
    kept_speakers, kept = set(names[:speakers]), set()
    groups: dict[tuple[str, str], list[str]] = {}
    for utterance in train:
        if utterance.speaker in kept_speakers:
            groups.setdefault((utterance.speaker, utterance.emotion), []).append(utterance.id)
    for ids in groups.values():
        kept.update(ids[: max(1, round(fraction * len(ids)))])
    if missing := sorted({u.emotion for u in train} - {emotion for _, emotion in groups}):
        raise SerError(
            f"train_speakers={speakers} leaves no {', '.join(missing)} utterance to train on, expected every emotion; "
            "keep more speakers."
        )
    return replace(split, train=tuple(utterance for utterance in split.train if utterance.id in kept))


def with_auxiliary(split: Split, others: Iterable[Utterance]) -> Split:
    """The split with utterances of other emotions by speakers who are in the training part only.

    Raises:
        SerError: there are none.
    """
    unseen = {utterance.speaker for utterance in (*split.validation, *split.test)}
    known = {utterance.speaker for utterance in split.train} - unseen
    found = tuple(utterance for utterance in others if utterance.speaker in known)
    if not found:
        raise SerError(
            f"auxiliary_weight was given, but fold {split.fold} of protocol {split.protocol} has no utterance of "
            "another emotion by a speaker of the training part alone, expected some; set auxiliary_weight=0."
        )
    return replace(split, auxiliary=found)


def refuse_shared_recordings(
    split: Split,
    recordings: Mapping[str, tuple[str, float, float | None]],
    signatures: Mapping[str, str],
    *,
    allowed: bool = False,
) -> None:
    """Refuse a split in which a recording occurs in two parts under different ids; only warn where that is ``allowed``.

    Segments of one recording are different ones unless they share at least half of the shorter. ``recordings`` and
    ``signatures`` are those of the FeatureCache.
    """
    parts = {utterance.id: (name, utterance) for name, part in split.parts().items() for utterance in part}
    parts |= {utterance.id: ("train", utterance) for utterance in split.auxiliary}
    segments: dict[str, list[_Segment]] = {}
    for name, utterance in parts.values():
        audio, start, end = recordings[utterance.id]
        segments.setdefault(audio, []).append((start, math.inf if end is None else end, name, utterance))
    pairs = [pair for found in segments.values() if len(found) > 1 and (pair := next(_shared(found), None))]
    alike: dict[str, str] = {}  # first id of each signature
    for name, (part, utterance) in parts.items():
        first = alike.setdefault(signatures[name], name)
        if part != parts[first][0] and recordings[name][0] != recordings[first][0]:
            pairs.append((parts[first][1], utterance))
    if not pairs:
        return
    one, other = pairs[0]
    text = (
        f"fold {split.fold} has {len(pairs)} recording(s) in two parts, the first: {one.path} (speaker {one.speaker}) "
        f"and {other.path} (speaker {other.speaker}) have the same content"
    )
    if not allowed:
        raise SerError(f"{text}, expected each recording in one part; remove the copies, or set allow_duplicates=true.")
    log.warning("%s; this makes the result look better than it is", text)


def recording_key(recording: tuple[str, float, float | None]) -> str:
    """The content hash of a recording as split.json keeps it, with the segment where it is a part of a file."""
    audio, start, end = recording
    return audio[:16] if not start and end is None else f"{audio[:16]} {start:g}-{'' if end is None else f'{end:g}'}"


_Segment = tuple[float, float, str, Utterance]  # start and end in seconds, part


def _shared(segments: list[_Segment]) -> Iterator[tuple[Utterance, Utterance]]:
    """Pairs of segments of one recording that are in two parts and share at least half of the shorter."""
    segments.sort(key=lambda segment: segment[:2])
    for place, (start, end, part, utterance) in enumerate(segments):
        for later in range(place + 1, len(segments)):  # no slice: a file may hold the segments of a whole corpus
            other_start, other_end, other_part, other = segments[later]
            if other_start >= end:
                break
            common = min(end, other_end) - other_start
            if part != other_part and common >= min(end - start, other_end - other_start) / 2:
                yield utterance, other


def split_record(
    split: Split,
    corpus: Corpus,
    left_out: Mapping[str, str],
    transductive: bool,
    keys: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """What ``split.json`` holds: who is in which part, and hashes by which two runs can be told to be comparable.

    By the ``keys`` of each utterance a later test on other data finds what was seen here; ``transductive`` says whether
    test speakers' own unlabelled frames are used (normalisation by speaker).
    """
    parts = {name: part_record(part, corpus.emotions) for name, part in split.parts().items()}
    if keys is not None:
        for name, part in split.parts().items():
            seen = (*part, *split.auxiliary) if name == "train" else part
            parts[name]["recordings"] = sorted({key for u in seen for key in keys[u.id]})
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
        **({"auxiliary": part_record(split.auxiliary, split.other_emotions)} if split.auxiliary else {}),
    }


def part_record(part: tuple[Utterance, ...], emotions: Iterable[str]) -> dict[str, Any]:
    """What split.json holds of one part."""
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
