"""Whatever the corpus: parts are disjoint, complete, and no speaker leaks unless the protocol says so."""

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser.data.corpus import Corpus, Utterance
from ser.data.protocols import (
    CorpusProtocol,
    GivenProtocol,
    RandomProtocol,
    SessionProtocol,
    SpeakerProtocol,
    SuperbProtocol,
)
from ser.data.split import refuse_shared_recordings, split_record, with_less_training
from ser.errors import SerError

EMOTIONS = ("neutral", "happy", "angry")
PROTOCOLS = [SessionProtocol(), SpeakerProtocol(), SuperbProtocol(), RandomProtocol()]


def make_corpus(sessions=5, speakers=2, repeats=5, name="made"):
    return Corpus(
        name,
        EMOTIONS,
        tuple(
            Utterance(
                f"u{session}{speaker}{emotion}{repeat}",
                Path("x.wav"),
                emotion,
                f"s{session}-{speaker}",
                session,
                "FM"[speaker % 2],
                1.5,
            )
            for session in range(1, sessions + 1)
            for speaker in range(speakers)
            for emotion in EMOTIONS
            for repeat in range(repeats)
        ),
    )


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(PROTOCOLS), st.integers(3, 6), st.integers(2, 4), st.integers(5, 9), st.integers(0, 9), st.data()
)
def test_every_split_is_a_partition_and_leaks_only_what_it_declares(protocol, sessions, speakers, repeats, seed, data):
    corpus = make_corpus(sessions, speakers, repeats)
    fold = data.draw(st.integers(1, protocol.folds(corpus)))
    split = protocol.split(corpus, fold, seed)
    parts = split.parts()
    assert list(parts) == ["train", "validation", "test"]
    assert sorted(u.id for part in parts.values() for u in part) == sorted(u.id for u in corpus.utterances)
    speakers_of = {name: {u.speaker for u in part} for name, part in parts.items()}
    assert split.speaker_overlap == (protocol.name in ("superb", "random"))
    if protocol.name != "random":
        assert not speakers_of["train"] & speakers_of["test"]
        assert not speakers_of["validation"] & speakers_of["test"] or protocol.name == "superb"
    if not split.speaker_overlap:
        assert not speakers_of["train"] & speakers_of["validation"]
    assert protocol.split(corpus, fold, seed) == split


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_every_utterance_is_tested_in_exactly_one_fold(protocol):
    corpus = make_corpus()
    tested = [u.id for fold in range(1, protocol.folds(corpus) + 1) for u in protocol.split(corpus, fold, 0).test]
    assert sorted(tested) == sorted(u.id for u in corpus.utterances)


def test_sessions_validate_on_the_next_one_and_the_last_on_the_first():
    corpus = make_corpus()
    for fold in range(1, 6):
        split = SessionProtocol().split(corpus, fold, 0)
        assert {u.session for u in split.test} == {fold}
        assert {u.session for u in split.validation} == {fold % 5 + 1}


def test_speakers_are_ordered_by_session_and_validated_by_the_others_of_theirs():
    corpus = make_corpus(sessions=6, speakers=4)
    split = SpeakerProtocol().split(corpus, 6, 0)
    assert {u.speaker for u in split.test} == {"s2-1"}
    assert {u.speaker for u in split.validation} == {"s2-0", "s2-2", "s2-3"}
    assert {u.session for u in split.train} == {1, 3, 4, 5, 6}


def test_superb_draws_a_fifth_of_each_emotion_by_seed_alone():
    corpus = make_corpus(repeats=10)
    split = SuperbProtocol().split(corpus, 1, 0)
    assert {emotion: sum(u.emotion == emotion for u in split.validation) for emotion in EMOTIONS} == dict.fromkeys(
        EMOTIONS, 16
    )
    assert split.validation != SuperbProtocol().split(corpus, 1, 1).validation
    # Written down once: a run on another machine must draw the same utterances.
    assert split_record(split, corpus, {}, False)["parts"]["validation"]["hash"] == "de52a1c4214732bf"


@pytest.mark.parametrize("protocol", [*PROTOCOLS, GivenProtocol(), CorpusProtocol()], ids=lambda one: one.name)
def test_a_protocol_is_seeded_exactly_where_the_seed_changes_its_parts(protocol):
    """A sweep computes the fitted network once per fold where it is not."""
    parts = ("train", "train", "train", "validation", "test")
    made = make_corpus(repeats=10)
    corpus = replace(made, utterances=tuple(
        replace(u, partition=parts[u.session - 1], corpus=f"c{u.session % 2}") for u in made.utterances
    ))  # fmt: skip
    for fold in range(1, protocol.folds(corpus) + 1):
        found = [protocol.split(corpus, fold, seed).parts() for seed in range(4)]
        assert all(one == found[0] for one in found) is not protocol.seeded


def test_one_failed_utterance_does_not_reshuffle_the_others():
    corpus = make_corpus(repeats=10)
    lost = corpus.utterances[-1].id
    before = {u.id for u in SuperbProtocol().split(corpus, 1, 0).validation}
    after = {u.id for u in SuperbProtocol().split(corpus.without([lost]), 1, 0).validation}
    assert len(before ^ after) <= 2


@pytest.mark.parametrize("fold", [0, -1, 6])
def test_a_fold_out_of_range_names_the_range(fold):
    with pytest.raises(SerError, match="folds 1 to 5"):
        SessionProtocol().split(make_corpus(), fold, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: protocol.name)
def test_a_corpus_of_one_speaker_is_refused(protocol):
    with pytest.raises(SerError, match="1 speaker"):
        protocol.split(make_corpus(sessions=1, speakers=1), 1, 0)


@pytest.mark.parametrize(
    "protocol, sessions, speakers, remedy",
    [
        (SessionProtocol(), 2, 2, "protocol=speaker"),
        (SpeakerProtocol(), 1, 4, "sessions"),
        (SpeakerProtocol(), 4, 1, "protocol=session"),
        (SuperbProtocol(), 1, 4, "sessions"),
    ],
)
def test_too_few_sessions_or_speakers_are_refused_with_the_remedy(protocol, sessions, speakers, remedy):
    with pytest.raises(SerError, match=remedy):
        protocol.split(make_corpus(sessions, speakers), 1, 0)


def test_a_speaker_in_two_sessions_is_refused():
    corpus = make_corpus()
    stray = Utterance("stray", Path("x.wav"), "happy", "s1-0", 4, "F", 1.0)
    with pytest.raises(SerError, match="s1-0"):
        SessionProtocol().split(Corpus("made", EMOTIONS, (*corpus.utterances, stray)), 1, 0)


def test_a_repeated_id_and_an_empty_part_are_refused():
    corpus = make_corpus()
    twin = Utterance(corpus.utterances[0].id, Path("y.wav"), "happy", "s3-0", 3, "F", 1.0)
    with pytest.raises(SerError, match="two parts"):
        SessionProtocol().split(Corpus("made", EMOTIONS, (*corpus.utterances, twin)), 1, 0)
    with pytest.raises(SerError, match="validation part empty"):
        SuperbProtocol().split(make_corpus(sessions=2, speakers=1, repeats=1), 1, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 20])
def test_fractions_outside_zero_and_one_are_refused(fraction):
    with pytest.raises(SerError, match="validation_fraction"):
        SuperbProtocol(validation_fraction=fraction)


def test_the_same_recording_in_two_parts_is_refused_unless_allowed(caplog):
    corpus = make_corpus()
    split = SessionProtocol().split(corpus, 1, 0)
    recordings = {utterance.id: (utterance.id, 0.0, None) for utterance in corpus.utterances}
    recordings[split.train[1].id] = recordings[split.train[0].id]  # within one part it does no harm
    refuse_shared_recordings(split, recordings, {name: name for name in recordings})
    recordings[split.test[3].id] = recordings[split.train[0].id]
    with pytest.raises(SerError, match=f"speaker {split.train[0].speaker}.*speaker {split.test[3].speaker}.*allow_dup"):
        refuse_shared_recordings(split, recordings, {name: name for name in recordings})
    refuse_shared_recordings(split, recordings, {name: name for name in recordings}, allowed=True)
    assert "1 recording(s) in two parts" in caplog.text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [((0.0, None), (0.0, None), True), ((0.0, None), (0.1, 9.0), True), ((0.0, 4.0), (0.001, 4.0), True),
     ((1.0, 3.0), (0.0, 60.0), True), ((0.0, 4.0), (3.0, 7.0), False), ((0.0, 4.0), (4.0, 8.0), False)],
)  # fmt: skip
def test_segments_of_one_recording_are_the_same_when_they_share_half_of_the_shorter(one, other, same):
    corpus = make_corpus()
    split = SessionProtocol().split(corpus, 1, 0)
    recordings = {utterance.id: (utterance.id, 0.0, None) for utterance in corpus.utterances}
    recordings[split.train[0].id], recordings[split.test[0].id] = ("dialogue", *one), ("dialogue", *other)
    with pytest.raises(SerError, match="in two parts") if same else nullcontext():
        refuse_shared_recordings(split, recordings, {name: name for name in recordings})


def test_the_record_of_a_split_counts_and_identifies_it():
    corpus = make_corpus()
    split = SessionProtocol().split(corpus, 2, 0)
    record = json.loads(json.dumps(split_record(split, corpus, {"bad": "truncated"}, transductive=True)))
    assert record["left_out"] == {"bad": "truncated"} and record["transductive"] is True
    test = record["parts"]["test"]
    assert test["utterances"] == 30 and test["seconds"] == 45.0 and test["sessions"] == [2]
    assert test["speakers"] == ["s2-0", "s2-1"] and test["emotions"] == dict.fromkeys(EMOTIONS, 10)
    other = split_record(SessionProtocol().split(corpus, 3, 0), corpus, {}, False)
    assert other["hash"] != record["hash"] and len(record["hash"]) == 16
    assert other["parts"]["test"]["hash"] == record["parts"]["validation"]["hash"]


def test_less_training_is_nested_and_leaves_the_other_parts():
    split = SessionProtocol().split(make_corpus(), 1, 3)
    assert with_less_training(split, None, 1.0) is split
    larger = set(split.train)
    for speakers, fraction in ((5, 1.0), (3, 1.0), (3, 0.4), (1, 0.01)):
        less = with_less_training(split, speakers, fraction)
        assert (less.validation, less.test) == (split.validation, split.test)
        assert set(less.train) < larger
        assert len({u.speaker for u in less.train}) == speakers
        assert {u.emotion for u in less.train} == set(EMOTIONS)
        larger = set(less.train)
    assert len(larger) == len(EMOTIONS)
    for speakers, fraction in ((0, 1.0), (7, 1.0), (None, 0.0), (None, 1.1)):
        with pytest.raises(SerError, match="train_"):
            with_less_training(split, speakers, fraction)
