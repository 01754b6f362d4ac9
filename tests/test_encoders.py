import json
import logging
import shutil
import zipfile

import pytest
import torch
from tiny_encoders import save_tiny_hubert, save_tiny_wav2vec2, save_tiny_wavlm, save_tiny_whisper
from transformers import (
    AutoFeatureExtractor,
    AutoModel,
    HubertForSequenceClassification,
    WhisperFeatureExtractor,
    WhisperForAudioClassification,
    WhisperModel,
)

from ser.encoders import LogMel, SpeechEncoder, WhisperEncoder, encode
from ser.errors import SerError

LENGTHS = (400, 719, 720, 9000, 16000, 16000, 30011)
SAVERS = {"hubert": save_tiny_hubert, "wavlm": save_tiny_wavlm, "wav2vec2": save_tiny_wav2vec2}
CASES = [(name, large) for name in SAVERS for large in (False, True)]


def waveforms(lengths=LENGTHS):
    generator = torch.Generator().manual_seed(1)
    return [0.1 * torch.randn(length, generator=generator) + 0.05 for length in lengths]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("encoders")
    made = {(name, large): SAVERS[name](root / f"{name}{large}", large=large) for name, large in CASES}
    made["whisper"] = save_tiny_whisper(root / "whisper")
    return made


def encoder_of(folders, case, **settings):
    return (WhisperEncoder if case == "whisper" else SpeechEncoder)(str(folders[case]), **settings)


@pytest.mark.parametrize("case", [*CASES, "whisper", "logmel"], ids=str)
def test_frames_do_not_depend_on_batch_mates(folders, case):
    encoder = LogMel() if case == "logmel" else encoder_of(folders, case)
    speech = waveforms()
    together = encode(encoder, speech)
    for waveform, frames in zip(speech, together, strict=True):
        alone = encode(encoder, [waveform])[0]
        assert frames.shape == alone.shape and frames.dtype == torch.float32
        torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)
    reverse = encode(encoder, speech[::-1], batch_seconds=1.3)[::-1]
    for frames, other in zip(together, reverse, strict=True):
        torch.testing.assert_close(frames, other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layer", [None, 0, 2, 3, [1, 3]], ids=str)
def test_equals_transformers_own_forward(folders, case, layer):
    encoder = encoder_of(folders, case, layer=layer)
    model = AutoModel.from_pretrained(folders[case]).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folders[case])
    waveform = waveforms((16000,))[0]
    with torch.inference_mode():
        output = model(
            extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt").input_values,
            output_hidden_states=True,
        )
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    wanted = [3] if layer is None else [layer] if isinstance(layer, int) else layer
    expected = torch.stack([states[k] for k in wanted]).mean(0)[0]
    torch.testing.assert_close(encode(encoder, [waveform])[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("encoder_only", [True, False])
@pytest.mark.parametrize("layer", [None, 0, 2, [0, 1]], ids=str)
def test_whisper_equals_transformers_own_forward(tmp_path, encoder_only, layer):
    whole = save_tiny_whisper(tmp_path / "whole", encoder_only=False)
    folder = save_tiny_whisper(tmp_path / "half") if encoder_only else whole
    waveform = waveforms((20000,))[0]
    mels = AutoFeatureExtractor.from_pretrained(whole)(waveform.numpy(), sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        output = (
            WhisperModel.from_pretrained(whole, dtype=torch.float32)
            .eval()
            .encoder(mels.input_features, output_hidden_states=True)
        )
    wanted = [3] if layer is None else [layer] if isinstance(layer, int) else layer
    expected = torch.stack([output.hidden_states[k] for k in wanted]).mean(0)[0, : round(20000 / 320)]
    encoder = WhisperEncoder(str(folder), layer=layer, window="30s")
    torch.testing.assert_close(encode(encoder, [waveform])[0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", ["sparse", "clip", "30s"])
def test_whisper_encodes_long_clips_in_windows(tmp_path, window):
    encoder = WhisperEncoder(str(save_tiny_whisper(tmp_path, window=50)), window=window)  # windows of one second
    long = waveforms((40000,))[0]
    frames, short = encode(encoder, [long, long[:7000]])
    assert len(frames) == 125 and len(short) == 22
    for start, end in ((0, 16000), (16000, 32000), (32000, 40000)):
        piece = encode(encoder, [long[start:end]])[0]
        torch.testing.assert_close(frames[start // 320 : end // 320], piece, atol=1e-4, rtol=0)
    torch.testing.assert_close(short, encode(encoder, [long[:7000]])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", ["sparse", "clip"])
def test_whisper_windows_differ_only_by_the_silence_behind_the_clip(folders, window):
    """A clip as long as the window has no silence behind it, so all settings agree up to the last frame's edge."""
    short, whole = (WhisperEncoder(str(folders["whisper"]), window=name) for name in (window, "30s"))
    waveform = waveforms((480000,))[0]
    one, other = encode(short, [waveform])[0], encode(whole, [waveform])[0]
    assert one.shape == other.shape == (1500, 16)
    assert (one - other)[:1400].abs().max() < 0.01
    assert short.description() != whole.description()
    assert short.computed_samples(16001) == 16001 and whole.computed_samples(16001) == 480000


def test_thinned_out_silence_stands_for_30_seconds_of_it(folders):
    """Frames of a sparse window lie much nearer to those of 30 s than frames of the clip alone."""
    waveform = waveforms((32000,))[0]
    sparse, clip, whole = (
        encode(WhisperEncoder(str(folders["whisper"]), window=name), [waveform])[0]
        for name in ("sparse", "clip", "30s")
    )
    assert (sparse - whole).norm() < 0.2 * (clip - whole).norm()


def test_layers_are_trained_on_the_clip_alone(folders):
    tuned, clip = (
        encoder_of(folders, "whisper", layer=2, finetune=1),
        encoder_of(folders, "whisper", layer=1, window="clip"),
    )
    assert tuned.window == "clip" and tuned.description() == clip.description()


def test_windows_that_are_not_known_are_refused(folders):
    with pytest.raises(SerError, match=r"expected sparse, clip or 30s; set features\.window"):
        WhisperEncoder(str(folders["whisper"]), window="5s")


@pytest.mark.parametrize("case", [("hubert", False), "logmel"], ids=str)
def test_number_of_frames(folders, case):
    encoder = LogMel() if case == "logmel" else encoder_of(folders, case)
    for length, frames in zip(LENGTHS, encode(encoder, waveforms()), strict=True):
        assert frames.shape == ((length - 400) // 320 + 1, encoder.dim)


@pytest.mark.parametrize("case", [("hubert", False), "whisper", "logmel"], ids=str)
def test_averaging_is_left_to_the_readers_of_the_frames(folders, case):
    def make(**settings):
        return LogMel(**settings) if case == "logmel" else encoder_of(folders, case, **settings)

    plain, averaged = make(), make(average=4)
    assert averaged.average == 4 and averaged.frame_rate == plain.frame_rate == 50
    assert averaged.description() == plain.description()
    assert torch.equal(encode(averaged, waveforms())[-1], encode(plain, waveforms())[-1])
    with pytest.raises(SerError, match="average=0"):
        make(average=0)


@pytest.mark.parametrize("case", [*CASES, "whisper", "logmel"], ids=str)
def test_only_the_first_seconds_are_heard(folders, case):
    """Samples after the cut change nothing; the encoder is another one, so its cache is, too."""

    def make(**settings):
        return LogMel(**settings) if case == "logmel" else encoder_of(folders, case, **settings)

    whole, cut = make(), make(max_seconds=0.5)
    speech = waveforms((30011, 9000, 3000))
    changed = [torch.cat((waveform[:8000], -waveform[8000:])) for waveform in speech]
    heard, same, first = encode(cut, speech), encode(cut, changed), encode(whole, [w[:8000] for w in speech])
    for frames, other, expected in zip(heard, same, first, strict=True):
        assert torch.equal(frames, other) and torch.equal(frames, expected)
    assert cut.description() == whole.description() | {"max_seconds": 0.5}
    assert make(max_seconds=3).description() != cut.description()
    with pytest.raises(SerError, match="max_seconds=0"):
        make(max_seconds=0)


@pytest.mark.parametrize("case", [("hubert", False), "whisper"], ids=str)
def test_concatenated_layers_lie_side_by_side_and_their_caches_stay_apart(folders, case):
    both, mean = (encoder_of(folders, case, layer=[2, 1], join=join) for join in ("concatenate", "mean"))
    one, two = (encoder_of(folders, case, layer=layer) for layer in (1, 2))
    assert both.dim == 2 * one.dim == 2 * mean.dim
    assert both.description() != mean.description()
    single = encoder_of(folders, case, layer=1, join="concatenate")
    assert (single.dim, single.description()) == (one.dim, one.description())
    for frames, first, second in zip(*(encode(encoder, waveforms()) for encoder in (both, one, two)), strict=True):
        torch.testing.assert_close(frames, torch.cat((first, second), dim=-1), atol=1e-5, rtol=1e-5)
    with pytest.raises(SerError, match="expected mean or concatenate"):
        encoder_of(folders, case, join="sum")


def test_padded_seconds_stay_within_the_limit(folders):
    encoder = encoder_of(folders, ("hubert", False))
    sizes = []
    encoder.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0].numel()))
    assert len(encode(encoder, waveforms((16000,) * 5 + (8000,) * 3), batch_seconds=2)) == 8
    assert len(sizes) > 1 and max(sizes) <= 32000


@pytest.mark.parametrize("case", [("hubert", False), "whisper", "logmel"], ids=str)
def test_a_waveform_shorter_than_a_frame_is_refused_before_weights_load(folders, case):
    encoder = LogMel() if case == "logmel" else encoder_of(folders, case)
    with pytest.raises(SerError, match="at least one frame"):
        encode(encoder, [torch.zeros(100)])
    assert getattr(encoder, "model", None) is None


def test_description_needs_no_weights_and_follows_contents_not_place(folders, tmp_path):
    encoder = encoder_of(folders, ("hubert", False))
    described = encoder.description()
    assert encoder.dim == 16 and encoder.model is None
    moved = shutil.copytree(folders["hubert", False], tmp_path / "moved")
    assert SpeechEncoder(str(moved)).description() == described
    assert encoder_of(folders, ("hubert", False), layer=1).description() != described
    assert encoder_of(folders, ("hubert", False), layer=3).description() == described
    other = save_tiny_hubert(tmp_path / "other", seed=1)
    assert SpeechEncoder(str(other)).description()["weights"] != described["weights"]
    assert str(folders["hubert", False]) not in str(described)


def test_later_layers_are_dropped(folders):
    hubert, whisper = encoder_of(folders, ("hubert", True), layer=1), encoder_of(folders, "whisper", layer=2)
    for encoder, layers in ((hubert, 1), (whisper, 2)):
        before = sum(value.numel() for value in encoder.parameters())
        encoder.load()
        assert before == 0 and len([name for name in encoder.state_dict() if name.endswith("q_proj.weight")]) == layers


def test_weights_move_with_the_encoder(folders):
    encoder = encoder_of(folders, "whisper").to("meta")
    encoder.load()
    assert {value.device.type for value in (*encoder.parameters(), *encoder.buffers())} == {"meta"}


def test_a_checkpoint_that_is_missing_says_what_to_do(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SerError, match=r"there is no folder .*features\.checkpoint=FOLDER .*--encoder FOLDER"):
        SpeechEncoder("./no/such/folder").description()
    with pytest.raises(SerError, match=r"hf download no-such-owner/no-such-model .*--encoder FOLDER"):
        SpeechEncoder("no-such-owner/no-such-model").description()


def test_a_strangers_model_downloads_nothing(monkeypatch):
    asked = []

    def snapshot_download(name, local_files_only, **settings):
        asked.append(local_files_only)
        raise OSError("not in the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    encoder = SpeechEncoder("owner/model")
    encoder.allow_download = False
    with pytest.raises(SerError, match=r"owner/model .*--encoder FOLDER or SER_ENCODER, or add --allow-download"):
        encoder.description()
    assert asked == [True]


def test_a_relative_folder_is_found_from_any_working_directory(folders, monkeypatch, tmp_path):
    monkeypatch.chdir(folders["whisper"].parent)
    encoder = WhisperEncoder("whisper")
    monkeypatch.chdir(tmp_path)
    assert encoder.checkpoint == str(folders["whisper"]) and encoder.dim == 16


@pytest.mark.parametrize("changed", [
    {"num_hidden_layers": 1_000_000}, {"hidden_size": 100_000}, {"conv_dim": [900_000] * 7}, {"vocab_size": 10**12},
    {"hidden_size": "wide"}, {"num_hidden_layers": None},
], ids=str)  # fmt: skip
def test_a_configuration_beyond_its_weights_is_refused_before_anything_is_built(folders, tmp_path, changed):
    folder = shutil.copytree(folders["hubert", False], tmp_path / "large")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(SerError, match=r"weight files hold|lacks a usable") as error:
        SpeechEncoder(str(folder)).load()
    assert "\n" not in str(error.value)


def test_weights_that_inflate_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["hubert", False], tmp_path / "bomb")
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))
    with pytest.raises(SerError, match="would become 50,000,000"):
        SpeechEncoder(str(folder)).load()


@pytest.mark.parametrize("case", [("hubert", True), "whisper"], ids=str)
def test_settings_saved_by_transformers_5_are_read(folders, tmp_path, case):
    folder = shutil.copytree(folders[case], tmp_path / "new")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    (one,), (other,) = (encode(type(encoder_of(folders, case))(str(place)), waveforms((9000,)))
                        for place in (folders[case], folder))  # fmt: skip
    assert torch.equal(one, other)
    (folder / "processor_config.json").write_text("{}")
    with pytest.raises(SerError, match=r"preprocessor_config\.json is missing"):
        encoder_of({case: folder}, case).load()


def test_other_mel_bands_than_the_models_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["whisper"], tmp_path / "mels")
    WhisperFeatureExtractor(feature_size=128).save_pretrained(folder)
    with pytest.raises(SerError, match="128 mel bands, but the model expects 80") as error:
        encode(WhisperEncoder(str(folder)), waveforms((9000,)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [HubertForSequenceClassification, WhisperForAudioClassification])
def test_the_encoder_of_a_classifier_is_used(folders, tmp_path, kind, caplog, monkeypatch):
    case = "whisper" if kind is WhisperForAudioClassification else ("hubert", False)
    base = save_tiny_whisper(tmp_path / "base", encoder_only=False) if case == "whisper" else folders[case]
    model = kind.from_pretrained(base)
    source = model.encoder if case == "whisper" else model.hubert
    shutil.copytree(base, tmp_path / "classifier")
    model.save_pretrained(tmp_path / "classifier")
    shutil.copytree(folders[case], tmp_path / "plain")
    source.save_pretrained(tmp_path / "plain")
    monkeypatch.setattr(logging.getLogger("transformers"), "handlers", [caplog.handler])
    caplog.clear()
    found, expected = (encode(encoder_of({case: tmp_path / name}, case), waveforms((9000,)))[0]
                       for name in ("classifier", "plain"))  # fmt: skip
    assert torch.equal(found, expected)
    # No report of the weights that are left out; other tests may have lowered the level of our own messages.
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_unfit_checkpoints_are_refused(folders, tmp_path):
    with pytest.raises(SerError, match="expected whisper"):
        WhisperEncoder(str(folders["hubert", False])).description()
    with pytest.raises(SerError, match="from 0 to 3"):
        SpeechEncoder(str(folders["hubert", False]), layer=4).description()
    with pytest.raises(SerError, match="no transformers checkpoint"):
        SpeechEncoder(str(tmp_path)).description()
    broken = shutil.copytree(folders["hubert", False], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-5000])
    with pytest.raises(SerError, match="cannot be read"):
        encode(SpeechEncoder(str(broken)), waveforms((16000,)))
    (broken / "preprocessor_config.json").unlink()
    with pytest.raises(SerError, match=r"preprocessor_config\.json"):
        SpeechEncoder(str(broken)).description()


def test_a_checkpoint_without_some_weights_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    partial = shutil.copytree(folders["hubert", False], tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["encoder.layers.1.attention.k_proj.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SerError, match="lack 1 tensors"):
        encode(SpeechEncoder(str(partial)), waveforms((16000,)))
