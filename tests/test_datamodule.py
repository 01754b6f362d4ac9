from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from ser.data.batching import LengthBatches, valid_frames
from ser.data.cache import FeatureCache, Recording, write_shard
from ser.data.corpus import Corpus, Utterance
from ser.data.datamodule import EmotionDataModule, FrameDataset
from ser.data.normalization import GlobalNormalization, NoNormalization, SpeakerNormalization
from ser.data.protocols import RandomProtocol, SessionProtocol
from ser.errors import SerError

DIM = 6
EMOTIONS = ("angry", "happy", "neutral", "sad")


def make_corpus(per_speaker=8):
    """Five sessions of two speakers; lengths from 1 to 40 frames, some of them alike."""
    utterances = [
        Utterance(
            f"s{session}{gender}{index}", Path(), EMOTIONS[index % 4], f"s{session}{gender}", session, gender, 1.0
        )
        for session in range(1, 6)
        for gender in "FM"
        for index in range(per_speaker)
    ]
    return Corpus("made", EMOTIONS, tuple(utterances))


def make_frames(corpus, scale=None):
    """Frames whose mean and deviation tell the speaker; ``scale`` multiplies those of some utterances."""
    random = np.random.default_rng(0)
    frames = {}
    for utterance in corpus.utterances:
        speaker = corpus.speakers.index(utterance.speaker)
        noise = random.standard_normal((random.integers(1, 41), DIM))
        frames[utterance.id] = (speaker + (1 + 0.2 * speaker) * noise).astype(np.float16)
    for identifier, factor in (scale or {}).items():
        frames[identifier] = (frames[identifier] * np.float16(factor)).astype(np.float16)
    return frames


def write_cache(folder, frames):
    folder.mkdir(exist_ok=True)
    path = folder / "session1-0001.safetensors"
    write_shard(path, frames, {name: Recording(name, 0.0, None) for name in frames}, "made")
    return FeatureCache.of_shards([path])


@pytest.fixture(scope="module")
def corpus():
    return make_corpus()


@pytest.fixture(scope="module")
def split(corpus):
    return SessionProtocol().split(corpus, 1, seed=1)


@pytest.fixture(scope="module")
def frames(corpus):
    return make_frames(corpus)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, frames):
    return write_cache(tmp_path_factory.mktemp("cache"), frames)


@pytest.fixture
def build(corpus, split, cache):
    def make(normalization=None, **settings):
        return EmotionDataModule(corpus, split, cache, normalization or NoNormalization(), batch_size=5, **settings)

    return make


def stacked(frames, utterances):
    return np.concatenate([frames[utterance.id] for utterance in utterances]).astype(np.float64)


def batches_of(data, part, shuffle=False):
    return [data.on_after_batch_transfer(batch, 0) for batch in data.loader(part, shuffle)]


def test_global_statistics_come_from_the_training_part_alone(corpus, split, frames, cache, tmp_path):
    held_out = [utterance.id for utterance in (*split.validation, *split.test)]
    statistics = GlobalNormalization().fit(cache, split.train, corpus.utterances)
    changed = write_cache(tmp_path / "changed", make_frames(corpus, dict.fromkeys(held_out, 3)))
    removed = write_cache(tmp_path / "removed", {u.id: frames[u.id] for u in split.train})
    for other in (changed, removed):
        again = GlobalNormalization().fit(other, split.train, corpus.utterances)
        assert torch.equal(again.mean, statistics.mean) and torch.equal(again.std, statistics.std)
    train = stacked(frames, split.train)
    torch.testing.assert_close(statistics.mean[0], torch.tensor(train.mean(0)).float())
    torch.testing.assert_close(statistics.std[0], torch.tensor(train.std(0)).float())
    touched = write_cache(tmp_path / "touched", make_frames(corpus, {split.train[0].id: 3}))
    assert not torch.equal(GlobalNormalization().fit(touched, split.train, corpus.utterances).mean, statistics.mean)


def test_speaker_statistics_are_each_speakers_own(corpus, split, frames, cache, tmp_path):
    statistics = SpeakerNormalization().fit(cache, split.train, corpus.utterances)
    for speaker in corpus.speakers:
        own = stacked(frames, [u for u in corpus.utterances if u.speaker == speaker])
        row = statistics.row(speaker)
        torch.testing.assert_close(statistics.mean[row], torch.tensor(own.mean(0)).float())
        torch.testing.assert_close(statistics.std[row], torch.tensor(own.std(0)).float())
    training = GlobalNormalization().fit(cache, split.train, corpus.utterances)
    assert torch.equal(statistics.mean[0], training.mean[0]) and torch.equal(statistics.std[0], training.std[0])
    assert statistics.row("a stranger") == 0
    louder = write_cache(tmp_path / "louder", make_frames(corpus, {u.id: 3 for u in split.test}))
    again = SpeakerNormalization().fit(louder, split.train, corpus.utterances)
    tested = {utterance.speaker for utterance in split.test}
    for speaker in corpus.speakers:
        row = statistics.row(speaker)
        assert torch.equal(again.mean[row], statistics.mean[row]) == (speaker not in tested)
    assert torch.equal(again.mean[0], statistics.mean[0])


def test_only_training_hears_copies_in_other_voices(corpus, split, build, frames, tmp_path):
    louder = [write_cache(tmp_path / str(factor), make_frames(corpus, {u.id: factor for u in corpus.utterances}))
              for factor in (3, 5)]  # fmt: skip
    data, plain, heard = build(copies=louder), build(), Counter()
    for epoch in range(3):
        loader = data.loader("train", shuffle=True)
        loader.sampler.set_epoch(epoch)
        seen = []
        for batch in loader:
            seen += batch.ids
            for row, (identifier, length) in enumerate(zip(batch.ids, batch.lengths, strict=True)):
                found = batch.frames[row, :length].float().numpy()
                heard[round(float(np.median(found / frames[identifier])))] += 1
                utterance = next(u for u in split.train if u.id == identifier)
                assert data.emotions[batch.emotion[row]] == utterance.emotion
                assert data.speakers[batch.speaker[row]] == utterance.speaker
        assert sorted(seen) == sorted(u.id for u in split.train)
    assert set(heard) == {1, 3, 5}
    for part in ("train", "validation", "test"):
        for one, two in zip(batches_of(data, part), batches_of(plain, part), strict=True):
            assert one.ids == two.ids and torch.equal(one.frames, two.frames)


def test_opening_the_test_part_changes_no_training_statistics_where_speakers_overlap(corpus, cache):
    split = RandomProtocol().split(corpus, 1, 1)
    closed, opened = (
        EmotionDataModule(corpus, split, cache, SpeakerNormalization(), frame_rate=50.0, test=test)
        for test in (False, True)
    )
    for speaker in {utterance.speaker for utterance in split.train}:
        mine, theirs = closed.statistics.row(speaker), opened.statistics.row(speaker)
        assert torch.equal(closed.statistics.mean[mine], opened.statistics.mean[theirs])
        assert torch.equal(closed.statistics.std[mine], opened.statistics.std[theirs])


def test_only_speaker_normalization_is_transductive():
    assert [kind.transductive for kind in (NoNormalization, GlobalNormalization, SpeakerNormalization)] == [0, 0, 1]


@pytest.mark.parametrize("kind", [NoNormalization, GlobalNormalization, SpeakerNormalization])
def test_batches_hold_normalised_frames_and_zeros_beyond(build, corpus, frames, kind):
    data = build(kind())
    speaker_of = {utterance.id: utterance.speaker for utterance in corpus.utterances}
    for part in data.datasets:
        for batch in batches_of(data, part):
            assert batch.frames.dtype == torch.float32
            assert batch.frames.shape == (len(batch.ids), int(batch.lengths.max()), DIM)
            for row, identifier in enumerate(batch.ids):
                length = int(batch.lengths[row])
                assert length == len(frames[identifier])
                which = data.statistics.row(speaker_of[identifier])
                mean, std = data.statistics.mean[which], data.statistics.std[which]
                expected = (torch.tensor(frames[identifier]).float() - mean) / std
                torch.testing.assert_close(batch.frames[row, :length], expected)
                assert not batch.frames[row, length:].any()


@pytest.mark.parametrize("average", [1, 3])
def test_a_batch_is_bit_for_bit_its_utterances_padded_and_normalised(corpus, split, cache, average):
    data = EmotionDataModule(corpus, split, cache, GlobalNormalization(), batch_size=5, average=average)
    dataset = data.datasets["train"]
    for rows in ([3], [0, 7, 2, 11], list(range(len(dataset)))):
        batch = dataset[rows]
        own = [dataset._frames(row) for row in rows]
        assert batch.frames.dtype == own[0].dtype
        assert torch.equal(batch.frames, torch.nn.utils.rnn.pad_sequence(own, batch_first=True))
        raw = FrameDataset([cache], split.train, None, average)[rows]
        before, after = batch.frames.clone(), data.on_after_batch_transfer(batch, 0)
        mean, std = (values[batch.statistics][:, None] for values in (data.statistics.mean, data.statistics.std))
        expected = (raw.frames.float() - mean) / std * valid_frames(batch.lengths, before.shape[1])[..., None]
        assert torch.equal(after.frames, expected) and after.frames.dtype == torch.float32
        assert torch.equal(batch.frames, before)  # which the next epoch reads again


def test_a_constant_channel_stays_finite(corpus, split, frames, tmp_path):
    constant = {
        name: np.concatenate([np.full_like(value[:, :1], 2), value[:, 1:]], 1) for name, value in frames.items()
    }
    cache = write_cache(tmp_path / "constant", constant)
    data = EmotionDataModule(corpus, split, cache, GlobalNormalization())
    for batch in batches_of(data, "test"):
        assert batch.frames.isfinite().all()
        assert not batch.frames[..., 0].any()


def test_labels_and_speakers(build, corpus, split):
    data = build()
    by_id = {utterance.id: utterance for utterance in corpus.utterances}
    assert data.speakers == sorted({utterance.speaker for utterance in split.train})
    for part in data.datasets:
        for batch in data.loader(part):
            for row, identifier in enumerate(batch.ids):
                assert EMOTIONS[batch.emotion[row]] == by_id[identifier].emotion
                index = int(batch.speaker[row])
                assert (data.speakers[index] == by_id[identifier].speaker) if part == "train" else index == -1
    assert data.emotion_counts().tolist() == [sum(u.emotion == name for u in split.train) for name in EMOTIONS]


def test_each_utterance_once_in_every_part_and_epoch(build, split):
    data = build()
    for part, utterances in split.parts().items():
        expected = sorted(utterance.id for utterance in utterances)
        for shuffle in (False, True):
            assert sorted(name for batch in data.loader(part, shuffle) for name in batch.ids) == expected


def test_workers_change_nothing(build):
    alone, helped = (list(build(workers=workers).loader("train", shuffle=True)) for workers in (0, 2))
    assert len(alone) == len(helped)
    for left, right in zip(alone, helped, strict=True):
        assert left.ids == right.ids
        assert all(torch.equal(x, y) for x, y in zip(left[:-1], right[:-1], strict=True))


def test_loading_leaves_the_random_numbers_alone(build):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(build(workers=2).loader("train", shuffle=True))
    assert torch.equal(torch.rand(1), expected)


def test_max_seconds_cuts_long_utterances_and_pads_none(build, frames):
    data = build(max_seconds=0.5, frame_rate=20.0)
    for batch in data.loader("train"):
        for row, identifier in enumerate(batch.ids):
            kept = min(10, len(frames[identifier]))
            assert batch.lengths[row] == kept
            assert torch.equal(batch.frames[row, :kept], torch.tensor(frames[identifier][:kept]))
    assert max(int(batch.lengths.max()) for batch in data.loader("train")) == 10


def test_cached_frames_are_cut_then_averaged_when_they_are_read(build, frames):
    whole, cut = build(average=4, max_frames=60), build(average=4, max_seconds=0.5, frame_rate=20.0)
    for data, longest in ((whole, None), (cut, 10)):
        for batch in data.loader("train", shuffle=True):
            assert len(batch.ids) == 1 or batch.frames.shape[0] * batch.frames.shape[1] <= 60
            for row, identifier in enumerate(batch.ids):
                expected = torch.tensor(frames[identifier][:longest]).float().split(4)
                assert batch.lengths[row] == len(expected)
                torch.testing.assert_close(
                    batch.frames[row, : len(expected)], torch.stack([part.mean(0) for part in expected])
                )
    first, again = (list(whole.loader("train")) for _ in range(2))  # read, then kept in memory
    for batch, other in zip(first, again, strict=True):
        assert torch.equal(batch.frames, other.frames)
        other.frames.fill_(7.0)  # what a caller does with a batch changes nothing that is kept
    assert all(torch.equal(x.frames, y.frames) for x, y in zip(first, whole.loader("train"), strict=True))
    assert whole.datasets["train"]._kept and not build(average=4, workers=1).datasets["train"].keep_bytes
    assert whole.datasets["train"].lengths[0] == -(-len(frames[whole.datasets["train"].ids[0]]) // 4)


def test_max_frames_limits_padded_frames(build):
    data = build(max_frames=60)
    sizes = [batch.frames.shape[:2] for batch in data.loader("train", shuffle=True)]
    assert all(count * length <= 60 or count == 1 for count, length in sizes)
    assert len(sizes) > len(data.datasets["train"]) / 5


def test_reading_never_changes_the_cache(build, cache, split):
    data = build()
    first = split.train[0].id
    before = cache.read(first).copy()
    for batch in data.loader("train"):
        batch.frames.fill_(7.0)
    assert np.array_equal(cache.read(first), before)


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"max_seconds": 0.0}, {"max_seconds": -1.0}, {"max_seconds": float("nan")}]
)
def test_settings_that_leave_nothing_are_refused(corpus, split, cache, settings):
    with pytest.raises(SerError, match=f"batches.{next(iter(settings))}="):
        EmotionDataModule(corpus, split, cache, NoNormalization(), **settings)


def test_single_utterances_can_be_shared_by_processes():
    ranks = [list(LengthBatches(range(1, 12), 1, rank=rank, world_size=4)) for rank in range(4)]
    assert [len(rank) for rank in ranks] == [2, 2, 2, 2]
    assert sorted(row for rank in ranks for batch in rank for row in batch) == list(range(11))
