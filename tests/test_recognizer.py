"""The recognizer: the same answer alone, in a batch and in training; hostile and damaged models refused."""

import os
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import ENHANCED, GRU, make_config, save_checkpoint, voice
from safetensors.torch import save_file
from tiny_encoders import save_tiny_hubert, save_tiny_wavlm, save_tiny_whisper
from torchaudio.functional import resample

from ser.data.cache import FeatureCache, Recording, write_shard
from ser.data.corpus import Utterance
from ser.data.normalization import FrameStatistics, RunningStatistics
from ser.encoders import LogMel, encode
from ser.errors import SerError, SyntheticVoiceWarning
from ser.inference.files import predict_file
from ser.inference.recognizer import Recognizer
from ser.inference.timeline import predict_long
from ser.models.network import build_network, construct


def values(prediction):
    return np.array(list(prediction.probabilities.values()))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "checkpoints" / "best.ckpt")
    return folder


@pytest.fixture(scope="module")
def recognizer(run_folder):
    return Recognizer.from_checkpoint(run_folder)


def test_prediction_is_a_distribution_with_its_largest_as_label(recognizer):
    prediction = recognizer(voice(2.0), 16000, attention=True)
    assert list(prediction.probabilities) == recognizer.emotions
    assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert prediction.probabilities[prediction.label] == prediction.confidence == max(prediction.probabilities.values())
    assert prediction.seconds == 2.0
    assert prediction.normalization == "global"
    assert len(prediction.attention) == (32000 - 400) // 320 + 1
    assert prediction.attention.sum() == pytest.approx(1, abs=1e-4)


def test_a_model_of_the_synthetic_voice_warns_where_it_is_loaded(tmp_path, run_folder):
    with pytest.warns(SyntheticVoiceWarning, match="synthetic voice") as caught:
        Recognizer.from_checkpoint(run_folder)
    assert [one.filename for one in caught] == [__file__]
    content = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    content["config"]["corpus"] = "ravdess"
    torch.save(content, path := tmp_path / "best.ckpt")
    with warnings.catch_warnings(action="error"):
        Recognizer.from_checkpoint(path)


@pytest.mark.parametrize("model", [GRU, ENHANCED], ids=["gru", "enhanced_gru"])
def test_alone_equals_in_a_batch(tmp_path, model):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", model=model))
    recordings = [(voice(seconds, seed), 16000) for seed, seconds in enumerate([1.0, 4.1, 0.03, 2.5, 9.0])]
    alone = [recognizer(*recording) for recording in recordings]
    for batch_seconds in (1, 12, 1000):
        together = recognizer.predict_many(recordings, batch_seconds=batch_seconds)
        for one, other in zip(alone, together, strict=True):
            assert values(one) == pytest.approx(values(other), abs=1e-5)
    assert np.ptp([prediction.confidence for prediction in alone]) > 0.05


@pytest.mark.parametrize(
    ("save", "target"),
    [(save_tiny_hubert, "SpeechEncoder"), (save_tiny_wavlm, "SpeechEncoder"), (save_tiny_whisper, "WhisperEncoder")],
)
def test_pretrained_encoders_alone_and_in_a_batch(tmp_path, save, target):
    folder = save(tmp_path / "encoder")
    encoder = {"_target_": f"ser.encoders.{target}", "checkpoint": "nobody/nowhere", "layer": 2}
    path = save_checkpoint(tmp_path / "best.ckpt", encoder=encoder, width=16)
    recognizer = Recognizer.from_checkpoint(path, encoder_checkpoint=folder)
    recordings = [(voice(seconds, seed), 16000) for seed, seconds in enumerate([1.0, 2.0, 0.5])]
    for one, other in zip(recognizer.predict_many(recordings), recordings, strict=True):
        assert values(one) == pytest.approx(values(recognizer(*other)), abs=1e-4)


def test_a_44100_hz_stereo_copy_agrees(recognizer):
    wide = voice(3.0, rate=44100)
    mono = resample(wide, 44100, 16000)
    stereo = torch.stack((wide * 1.2, wide * 0.8), dim=1).numpy()  # (N, 2)
    assert values(recognizer(stereo, 44100)) == pytest.approx(values(recognizer(mono, 16000)), abs=2e-3)


@pytest.mark.parametrize("average", [1, 4])
@pytest.mark.parametrize("max_seconds", [None, 1.5])
def test_a_training_file_gets_the_prediction_of_the_run(tmp_path, max_seconds, average):
    """Frames read back from the cache, cropped and normalised by the training's own code."""
    from ser.data.datamodule import Batch, FrameDataset, normalize

    settings = {"_target_": "ser.encoders.LogMel", "mels": 40, "average": average}
    path = save_checkpoint(tmp_path / "best.ckpt", max_seconds=max_seconds, encoder=settings)
    encoder = LogMel(mels=40)
    waveforms = {f"u{seed}": voice(seconds, seed) for seed, seconds in enumerate([1.0, 2.7, 4.0])}
    utterances = [
        Utterance(
            id=name, path=tmp_path, emotion="sad", speaker="a", session=1, seconds=1.0, gender="f", start=None, end=None
        )
        for name in waveforms
    ]
    frames = {name: encode(encoder, [waveform])[0].half().numpy() for name, waveform in waveforms.items()}
    write_shard(
        tmp_path / "session1-0001.safetensors", frames, {u.id: Recording(u.id, 0.0, None) for u in utterances}, "x"
    )
    cache = FeatureCache.of_shards([tmp_path / "session1-0001.safetensors"])
    dataset = FrameDataset([cache], utterances, None if max_seconds is None else round(max_seconds * 50), average)
    config = torch.load(path, weights_only=True)["config"]["normalization"]
    batch: Batch = normalize(dataset[[0, 1, 2]], config["mean"][None], config["std"][None])
    recognizer = Recognizer.from_checkpoint(path)
    expected = recognizer.model.network(batch.frames, batch.lengths).emotion_logits.softmax(-1)
    for waveform, row in zip(waveforms.values(), expected, strict=True):
        assert values(recognizer(waveform, 16000)) == pytest.approx(row.numpy(), abs=1e-5)


def test_a_model_of_the_first_seconds_hears_nothing_else(tmp_path):
    settings = {"_target_": "ser.encoders.LogMel", "mels": 40, "max_seconds": 1.5}
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", encoder=settings))
    waveform = voice(4.0)
    changed = torch.cat((waveform[:24000], voice(1.0, 1)))
    answer, *same = (list(values(recognizer(heard, 16000))) for heard in (waveform, changed, waveform[:24000]))
    assert same == [answer, answer]
    soundfile.write(tmp_path / "long.wav", np.tile(waveform.numpy(), 20), 16000)
    assert predict_long(recognizer, tmp_path / "long.wav").windows == 54  # of 1.5 s, not of 10


def test_files_are_read_like_waveforms(recognizer, tmp_path):
    soundfile.write(tmp_path / "a.flac", voice(2.0).numpy(), 16000, subtype="PCM_24")
    soundfile.write(tmp_path / "b.wav", voice(1.0, 1).numpy(), 16000, subtype="FLOAT")
    first, second = (predict_file(recognizer, tmp_path / name) for name in ("a.flac", "b.wav"))
    assert values(first) == pytest.approx(values(recognizer(voice(2.0), 16000)), abs=1e-3)
    assert values(second) == pytest.approx(values(recognizer(voice(1.0, 1), 16000)), abs=1e-6)


def test_speaker_models_say_whose_statistics_they_used(tmp_path):
    recognizer = Recognizer.from_checkpoint(save_checkpoint(tmp_path / "best.ckpt", kind="speaker"))
    waveform = voice(2.0)
    plain = recognizer(waveform, 16000)
    assert plain.normalization == "training"
    own = recognizer(waveform, 16000, statistics=recognizer.speaker_statistics([(waveform, 16000)]))
    assert own.normalization == "speaker"
    assert abs(values(plain) - values(own)).max() > 1e-3


def test_running_statistics_go_from_the_training_ones_to_the_speaker():
    training = FrameStatistics(torch.zeros(3), torch.ones(3), "training")
    running = RunningStatistics(training, frame_rate=50, prior_seconds=2)
    assert torch.equal(running.current.mean, training.mean)
    assert torch.allclose(running.current.std, training.std)
    frames = 5 + 2 * torch.randn(20_000, 3)
    for portion in frames.split(64):
        running.update(portion)
    assert running.current.source == "stream"
    assert torch.allclose(running.current.mean, frames.mean(0), atol=0.05)
    assert torch.allclose(running.current.std, frames.std(0, correction=0), atol=0.1)
    alone = RunningStatistics(training, 50, 0, "speaker")
    alone.update(frames)
    assert torch.allclose(alone.current.std, frames.std(0, correction=0), atol=1e-4)


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (np.zeros(0, np.float32), 16000, "0 samples"),
        (np.zeros(1, np.float32), 16000, "1 samples"),
        (np.full(16000, np.nan, np.float32), 16000, "NaN"),
        (np.zeros(16000, np.complex64), 16000, "complex64"),
        (np.array(["loud"] * 16000), 16000, "shape"),
        (np.zeros(16000, np.float32), "fast", "fast"),
        (np.zeros(16000, np.float32), 0, "sample rate"),
        (np.zeros((2, 2, 2), np.float32), 16000, "shape"),
        (np.zeros(61 * 16000, np.float32), 16000, "at most"),
    ],
)
def test_bad_waveforms_get_one_sentence(recognizer, waveform, rate, words):
    with pytest.raises(SerError, match=words) as error:
        recognizer(waveform, rate)
    assert "\n" not in str(error.value)


def test_arrays_of_every_kind_are_copied_and_recognised(recognizer):
    wave = voice(1.5).numpy().clip(-1, 1)
    expected = values(recognizer(wave, 16000))
    readonly = wave.copy()
    readonly.flags.writeable = False
    same = {
        "reversed view": (wave[::-1].copy()[::-1], 16000),
        "big-endian": (wave.astype(">f4"), 16000),
        "read-only": (readonly, np.int64(16000)),
        "channels first": (np.stack((wave, wave)), "16000"),
        "channels last": (np.stack((wave, wave), axis=1), 16000.0),
        "double": (wave.astype(np.float64), np.float32(16000)),
        "tensor": (torch.from_numpy(wave.copy()), 16000),
        "list": (wave.tolist(), 16000),
    }
    for what, recording in same.items():
        assert values(recognizer(*recording)) == pytest.approx(expected, abs=1e-6), what
    for kind, largest in ((np.int16, 32768), (np.int32, 2**31), (np.uint8, 128)):
        scaled = np.round(wave.astype(np.float64) * (largest - 1))
        integers = (scaled + (128 if kind is np.uint8 else 0)).astype(kind)
        coarse = scaled / largest
        assert values(recognizer(integers, 16000)) == pytest.approx(values(recognizer(coarse, 16000)), abs=1e-6)


def test_arrays_of_another_scale_or_order_are_refused_and_not_guessed(recognizer):
    wave = voice(1.5).numpy()
    integers = (3e4 * wave).astype(np.int16)
    wrong = {
        "expected -1 to 1": (integers.astype(np.float32), 16000),
        "int64, whose range no sound fills": (integers.tolist(), 16000),
        "with ndarray as the rate": (16000, integers),
    }
    for reason, recording in wrong.items():
        with pytest.raises(SerError, match=reason) as refusal:
            recognizer(*recording)
        assert "\n" not in str(refusal.value)
    half = torch.from_numpy(wave).bfloat16()
    assert values(recognizer(half, 16000)) == pytest.approx(values(recognizer(half.float(), 16000)))


@pytest.fixture
def refused(run_folder, tmp_path):
    """Loads the model with something changed and gives back the one line of the refusal."""

    def attempt(change, save=torch.save):
        content = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
        change(content)
        save(content, tmp_path / "changed.ckpt")
        with pytest.raises(SerError) as error:
            Recognizer.from_checkpoint(tmp_path / "changed.ckpt")
        assert "\n" not in str(error.value)
        return str(error.value)

    return attempt


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(refused, value):
    def change(content):
        next(weight for name, weight in content["state_dict"].items() if name.startswith("network.")).flatten()[0] = (
            value
        )

    assert "NaN or infinite" in refused(change)


def test_a_model_that_overflows_gives_an_error_and_no_label(run_folder, tmp_path):
    content = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    for name, weight in content["state_dict"].items():
        if name.startswith("network.") and weight.dim() == 2:
            weight.fill_(3e38)  # finite, so the file itself is sound
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(SerError, match="answers NaN"):
        Recognizer.from_checkpoint(tmp_path / "changed.ckpt")(np.ones(16000, np.float32) * 0.1, 16000)


def test_impossible_descriptions_are_refused(refused):
    def std(content, value):
        content["config"]["normalization"]["std"][0] = value

    def name(content):
        content["config"]["emotions"][1] = content["config"]["emotions"][0]

    assert "std of 1e-38" in refused(lambda content: std(content, 1e-38))
    assert "finite" in refused(lambda content: std(content, float("nan")))
    assert "occurs twice" in refused(name)
    assert "a mean or std of 3e+38" in refused(lambda content: content["config"]["normalization"]["mean"].fill_(3e38))
    for text in ("", " ", "\x1b[31m"):
        assert "can be printed" in refused(lambda content, text=text: content["config"]["emotions"].insert(0, text))
    for value in (-1, 0, float("nan"), float("inf")):
        assert "max_seconds" in refused(lambda content, value=value: content["config"].update(max_seconds=value))


def test_descriptions_that_would_exhaust_memory_or_time_are_refused(refused, tmp_path):
    assert "layers=1000000" in refused(lambda content: content["config"]["network"].update(layers=1_000_000))
    assert "do not fit" in refused(lambda content: content["config"]["network"].update(hidden_size=60_000))
    whole = {name: torch.zeros(()).expand(10**9) for name in ("network.a", "network.b")}
    assert "larger than the file" in refused(lambda content: content["state_dict"].update(whole))

    def squeezed(content, path):
        torch.save({**content, "padding": torch.zeros(10**7)}, tmp_path / "plain.ckpt")
        with zipfile.ZipFile(tmp_path / "plain.ckpt") as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))

    assert "compressed" in refused(lambda content: None, squeezed)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": 2}', "7", '{"a": 1e999}', "x" * 11_000_000])
def test_hostile_descriptions_of_exported_folders_end_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(SerError) as error:
        Recognizer.from_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_another_encoder_than_that_of_the_training_is_refused(tmp_path):
    folder, other = save_tiny_hubert(tmp_path / "encoder"), save_tiny_hubert(tmp_path / "other", seed=1)
    settings = {"_target_": "ser.encoders.SpeechEncoder", "checkpoint": str(folder), "layer": 2}
    path = save_checkpoint(tmp_path / "best.ckpt", encoder=settings, width=16)
    content = torch.load(path, weights_only=True)
    content["config"]["encoder_identity"] = construct(settings, "ser.encoders").description()
    torch.save(content, path)
    expected = values(Recognizer.from_checkpoint(path)(voice(1.0), 16000))
    assert values(Recognizer.from_checkpoint(path, folder)(voice(1.0), 16000)) == pytest.approx(expected)
    with pytest.raises(SerError, match=r"weights=.* expected"):
        Recognizer.from_checkpoint(path, other)
    shutil.rmtree(folder)
    shutil.move(other, folder)
    with pytest.raises(SerError, match=r"weights=.* expected"):
        Recognizer.from_checkpoint(path)


def test_an_encoder_is_fetched_from_the_hub_only_when_allowed(tmp_path, monkeypatch):
    settings = {"_target_": "ser.encoders.SpeechEncoder", "checkpoint": "nobody/nowhere", "layer": 2}
    path = save_checkpoint(tmp_path / "best.ckpt", encoder=settings, width=16)
    asked = []

    def download(name, local_files_only, **options):
        if not local_files_only:
            asked.append(name)
        raise OSError("offline")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(SerError, match=r"needs the encoder nobody/nowhere.*--allow-download"):
        Recognizer.from_checkpoint(path)
    assert not asked
    with pytest.raises(SerError, match="offline"):
        Recognizer.from_checkpoint(path, allow_download=True)
    assert "nobody/nowhere" in asked


def test_inference_does_not_import_lightning(run_folder):
    code = (
        f"import sys, torch; from ser.inference.recognizer import Recognizer\n"
        f"Recognizer.from_checkpoint({str(run_folder)!r})(torch.rand(16000), 16000)\n"
        f"assert not [name for name in sys.modules if 'lightning' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["pickle", "torch", "inside"])
def test_a_malicious_pickle_is_refused_and_nothing_runs(tmp_path, form):
    path, mark = tmp_path / "best.ckpt", tmp_path / "executed"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Hostile(mark)))
    elif form == "torch":
        torch.save(Hostile(mark), path)
    else:
        torch.save({"state_dict": {}, "config": {**make_config(), "corpus": Hostile(mark)}}, path)
    with pytest.raises(SerError, match="refused without running"):
        Recognizer.from_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "ser.io.os.system",
        "ser.models.network.importlib",
        "builtins.eval",
        "ser.models.layers.torch",
        "ser.io.write_text",
        "ser.models..build_network",
        "ser.models.recurrent.GRU.__init__",
        "ser.models.network.classes",
        7,
        None,
    ],
)
@pytest.mark.parametrize("place", ["top", "nested", "list", "partial"])
def test_a_malicious_config_calls_nothing(tmp_path, target, place):
    mark = tmp_path / "executed"
    hostile = {"_target_": target, "command": f"touch {mark}", "path": str(mark), "text": "x"}
    description = {
        "top": hostile,
        "nested": {**GRU, "attention": hostile},
        "list": {**GRU, "attention": [hostile]},
        "partial": {**GRU, "attention": {**hostile, "_partial_": True}},
    }[place]
    with pytest.raises(SerError):
        build_network({**description, "input_size": 4, "emotions": 2})
    with pytest.raises(SerError):
        construct({**hostile, "_target_": target}, "ser.encoders")
    assert not mark.exists()


def test_a_name_that_the_hub_does_not_give(monkeypatch):
    import huggingface_hub

    def absent(name, **settings):
        raise OSError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    with pytest.raises(SerError, match=r"nobody/model .* Hub \(offline\)"):
        Recognizer.from_pretrained("nobody/model")


def test_checkpoints_of_another_kind_get_one_sentence(tmp_path, run_folder):
    def refused(path, words):
        with pytest.raises(SerError, match=words) as error:
            Recognizer.from_checkpoint(path)
        assert "\n" not in str(error.value)

    torch.save({"model": {}}, tmp_path / "other.ckpt")
    refused(tmp_path / "other.ckpt", "another kind")
    (tmp_path / "text.ckpt").write_text("hello")
    refused(tmp_path / "text.ckpt", "refused")
    refused(tmp_path / "nothing", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no model")
    whole = torch.load(run_folder / "checkpoints" / "best.ckpt", weights_only=True)
    for key, value, words in [
        ("format", 9, "format 9"),
        ("emotions", [], "no usable description"),
        ("emotions", ["happy", "sad"], "2 emotions for a network of 4"),
        ("encoder", {"_target_": "ser.encoders.LogMel", "mels": 13}, "13 values"),
        ("encoder", {"_target_": "ser.encoders.pretrained.json"}, "expected a class of ser.encoders"),
        ("network", {**whole["config"]["network"], "hidden_size": 4}, "do not fit"),
        ("network", {**whole["config"]["network"], "colour": 4}, "cannot be built"),
        ("network", {**whole["config"]["network"], "erase": 10**5}, "expected a whole number from 1 to"),
    ]:
        torch.save({**whole, "config": {**whole["config"], key: value}}, tmp_path / "changed.ckpt")
        refused(tmp_path / "changed.ckpt", words)
    content = (run_folder / "checkpoints" / "best.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(content[: len(content) // 2])
    refused(tmp_path / "cut.ckpt", "refused")
    assert Recognizer.from_pretrained(run_folder).emotions == Recognizer.from_checkpoint(run_folder).emotions
    with pytest.raises(SerError, match="device"):
        Recognizer.from_checkpoint(run_folder, device="cuda:7")
    with pytest.raises(SerError, match="reads no checkpoint"):
        Recognizer.from_checkpoint(run_folder, encoder_checkpoint="facebook/hubert-base-ls960")
