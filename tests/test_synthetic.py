"""The two synthetic corpora: reproducible, resumable, shaped like IEMOCAP, and hard in the way they claim to be."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import soundfile
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchaudio.transforms import MelSpectrogram

from ser.config import compose_config
from ser.data.corpora.iemocap import iemocap
from ser.data.corpora.manifest import manifest
from ser.data.corpora.synthetic import synthetic
from ser.data.corpora.synthetic_frames import EMOTIONS, draw_utterances, frames_of, synthetic_features
from ser.data.corpora.voice import speak
from ser.errors import SerError
from ser.run.building import load_data

SPEAK = "ser.data.corpora.synthetic.speak"
CHANCE = 1 / len(EMOTIONS)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("spoken"), utterances=160, seed=0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return synthetic(tmp_path_factory.mktemp("small"), utterances=40, seed=2)


@pytest.fixture(scope="module")
def numbers():
    return synthetic_features(scale=0.1, dim=96, seed=1)


@pytest.fixture(scope="module")
def spoken_features(spoken):
    mel = MelSpectrogram(16_000, n_fft=512, win_length=400, hop_length=160, n_mels=40)
    waveforms = [torch.from_numpy(soundfile.read(u.path, dtype="float32")[0]) for u in spoken.utterances]
    return _pooled([(mel(waveform) + 1e-6).log().T for waveform in waveforms])


@pytest.fixture(scope="module")
def number_features(numbers):
    return _pooled([frames for _, frames in numbers.frame_source.frames(numbers.utterances)])


def _pooled(frames):
    return torch.stack([torch.cat([f.mean(dim=0), f.std(dim=0)]) for f in frames]).numpy()


def _columns(corpus):
    return tuple(np.array([getattr(u, name) for u in corpus.utterances]) for name in ("emotion", "speaker", "session"))


def _by_speaker(features, speakers):
    features = features.copy()
    for speaker in set(speakers):
        own = speakers == speaker
        features[own] = (features[own] - features[own].mean(axis=0)) / features[own].std(axis=0)
    return features


def _uar(features, corpus):
    """Leave one session out, logistic regression."""
    emotions, _, sessions = _columns(corpus)
    predicted = np.empty_like(emotions)
    for session in corpus.sessions:
        test = sessions == session
        predicted[test] = _classifier().fit(features[~test], emotions[~test]).predict(features[test])
    return recall_score(emotions, predicted, average="macro")


def _uar_of_habits(features, corpus, folds):
    """Recognise the most similar training speaker and answer what that speaker shows most often."""
    emotions, speakers, _ = _columns(corpus)
    predicted = np.empty_like(emotions)
    for fold in set(folds):
        test = folds == fold
        habits = {name: Counter(emotions[~test & (speakers == name)]) for name in set(speakers[~test])}
        # Against the shares of the whole corpus, or everybody's habit would be the commonest emotion.
        shares = Counter(emotions[~test])
        answer = {name: max(EMOTIONS, key=lambda e, c=counts: c[e] / shares[e]) for name, counts in habits.items()}
        alike = _classifier().fit(features[~test], speakers[~test]).predict(features[test])
        predicted[test] = [answer[name] for name in alike]
    return recall_score(emotions, predicted, average="macro")


def _classifier():
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))


def _relative_bytes(corpus):
    folder = corpus.utterances[0].path.parents[4]
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_full_size_has_the_shares_and_lengths_of_iemocap():
    corpus = synthetic_features(scale=1.0, dim=32)
    counts = Counter(u.emotion for u in corpus.utterances)
    assert counts == {"neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084}
    seconds = np.array([u.seconds for u in corpus.utterances])
    assert seconds.mean() == pytest.approx(4.55, rel=0.02)
    assert np.median(seconds) == pytest.approx(3.58, rel=0.02)
    assert np.quantile(seconds, [0.05, 0.95]) == pytest.approx([1.39, 11.06], rel=0.02)
    assert 30 < seconds.max() <= 34.2
    assert sum(frames_of(s) for s in seconds) == pytest.approx(1.25e6, rel=0.02)


@pytest.mark.parametrize("number", [40, 41, 300, 5531])
def test_speakers_and_sessions(number):
    utterances = draw_utterances(number, seed=3)
    assert len(utterances) == len({u.id for u in utterances}) == number
    speakers = {(u.speaker, u.session, u.gender) for u in utterances}
    assert speakers == {(f"Ses{s:02d}{g}", s, g) for s in range(1, 6) for g in "FM"}
    for u in utterances:  # the speaker is the session and the first letter of the last part, not the dialogue's letter
        assert u.speaker == u.id[:5] + u.id.rpartition("_")[2][0]
    if number >= 300:
        sizes = Counter(u.speaker for u in utterances)
        assert max(sizes.values()) <= 1.2 * min(sizes.values())


def test_other_settings_live_beside_each_other(small):
    before = _relative_bytes(small)
    other = synthetic(small.utterances[0].path.parents[5], utterances=40, seed=3)
    assert not {u.path for u in small.utterances} & {u.path for u in other.utterances}
    assert _relative_bytes(small) == before
    assert small.fingerprint() != other.fingerprint()


def test_wav_files_are_16_khz_mono_16_bit_of_the_stated_length(spoken):
    for utterance in spoken.utterances[::17]:
        info = soundfile.info(utterance.path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert info.frames == round(utterance.seconds * 16_000)
        waveform, _ = soundfile.read(utterance.path)
        assert 0.001 < np.sqrt(np.mean(waveform**2)) < 0.5


def test_the_folder_reads_as_iemocap_and_as_a_manifest(spoken):
    folder = spoken.utterances[0].path.parents[4]

    def rows(corpus):
        return {(u.path.resolve(), u.emotion, u.speaker, u.session, u.gender) for u in corpus.utterances}

    assert rows(iemocap(folder)) == rows(manifest(folder / "manifest.csv")) == rows(spoken)


def test_interrupted_writing_resumes_to_the_same_bytes_and_a_finished_corpus_is_left_alone(
    small, tmp_path, monkeypatch
):
    whole = _relative_bytes(small)
    spoken_so_far = []

    def interrupted(*arguments):
        if len(spoken_so_far) == 12:
            raise KeyboardInterrupt
        spoken_so_far.append(arguments)
        return speak(*arguments)

    monkeypatch.setattr(SPEAK, interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic(tmp_path / "cut", utterances=40, seed=2)
    partial = list((tmp_path / "cut").rglob("*.wav"))
    assert len(partial) == 12
    spoken_so_far.clear()
    monkeypatch.setattr(SPEAK, lambda *arguments: spoken_so_far.append(1) or speak(*arguments))
    corpus = synthetic(tmp_path / "cut", utterances=40, seed=2)
    assert len(spoken_so_far) == 28
    assert _relative_bytes(corpus) == whole

    corpus.utterances[3].path.unlink()
    corpus.utterances[7].path.write_bytes(corpus.utterances[7].path.read_bytes()[:1000])
    spoken_so_far.clear()
    assert _relative_bytes(synthetic(tmp_path / "cut", utterances=40, seed=2)) == whole
    assert len(spoken_so_far) == 2
    spoken_so_far.clear()
    synthetic(tmp_path / "cut", utterances=40, seed=2)
    assert not spoken_so_far


def test_runs_that_begin_at_once_write_the_corpus_once(small, tmp_path, monkeypatch):
    """A file that a second run replaces while the first extracts it would be left out there."""
    spoken = []
    monkeypatch.setattr(SPEAK, lambda *arguments: spoken.append(1) or speak(*arguments))
    together = Barrier(3)

    def make():
        together.wait()
        return synthetic(tmp_path, utterances=40, seed=2)

    with ThreadPoolExecutor(3) as pool:
        corpora = [future.result() for future in [pool.submit(make) for _ in range(3)]]
    assert len(spoken) == 40
    assert all(_relative_bytes(corpus) == _relative_bytes(small) for corpus in corpora)


def test_frames_do_not_depend_on_order_or_company(numbers):
    few = numbers.utterances[:6]
    together = {u.id: frames for u, frames in numbers.frame_source.frames(few)}
    again = synthetic_features(scale=0.1, dim=96, seed=1).frame_source
    for utterance in reversed(few):
        ((_, frames),) = again.frames([utterance])
        assert torch.equal(frames, together[utterance.id])
        assert frames.shape == (frames_of(utterance.seconds), 96)
        assert frames.dtype == torch.float32


def test_frames_fit_half_precision_and_settings_show_in_the_description(numbers):
    stacked = torch.cat([frames for _, frames in numbers.frame_source.frames(numbers.utterances[:50])])
    assert 0.5 < stacked.std() < 2
    assert stacked.abs().max() < 30
    other = synthetic_features(scale=0.1, dim=96, seed=2).frame_source
    assert numbers.frame_source.description() != other.description()


@pytest.mark.parametrize("form", ["spoken", "number"])
def test_emotion_is_learnable_on_unseen_speakers_and_speakers_stand_in_the_way(form, request):
    corpus = request.getfixturevalue("spoken" if form == "spoken" else "numbers")
    features = request.getfixturevalue(f"{form}_features")
    raw = _uar(features, corpus)
    normalised = _uar(_by_speaker(features, _columns(corpus)[1]), corpus)
    assert raw > CHANCE + 0.2
    assert normalised > raw + 0.04
    assert normalised < 0.95  # a corpus that everybody solves measures nothing


@pytest.mark.parametrize("form", ["spoken", "number"])
def test_habits_of_speakers_help_with_known_speakers_only(form, request):
    corpus = request.getfixturevalue("spoken" if form == "spoken" else "numbers")
    features = request.getfixturevalue(f"{form}_features")
    known = _uar_of_habits(features, corpus, folds=np.arange(len(features)) % 5)
    unseen = _uar_of_habits(features, corpus, folds=_columns(corpus)[2])
    assert known > CHANCE + 0.05
    assert unseen < known - 0.1
    assert unseen < _uar(features, corpus) - 0.2


@pytest.mark.parametrize(("make", "given"), [
    (lambda root: synthetic(root, utterances=10), "10"),
    (lambda root: synthetic_features(scale=0), "scale=0"),
    (lambda root: synthetic_features(scale=17), "scale=17"),
    (lambda root: synthetic_features(scale=0.1, dim=8), "dim=8"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(make, given, tmp_path):
    with pytest.raises(SerError, match=given):
        make(tmp_path)


def test_frames_without_audio_are_averaged_as_others_are(tmp_path):
    words = ["data=synthetic_features", "data.scale=0.01", "data.dim=32", f"paths.cache={tmp_path}"]
    whole, averaged = (
        load_data(compose_config([*words, *more])).module for more in (["features.average=1"], ["features.average=4"])
    )
    lengths = [module.datasets["train"].lengths for module in (whole, averaged)]
    assert lengths[1] == [-(-length // 4) for length in lengths[0]]
    first, four = (module.on_after_batch_transfer(module.datasets["train"][[0]], 0) for module in (averaged, whole))
    torch.testing.assert_close(first.frames[0, 0], four.frames[0, :4].mean(0))
