import shutil

import pytest
import torch
from tiny_encoders import save_tiny_hubert, save_tiny_wav2vec2, save_tiny_wavlm, save_tiny_whisper
from transformers import AutoFeatureExtractor, AutoModel, WhisperModel

from ser.encoders import LogMel, SpeechEncoder, WhisperEncoder
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
    together = encoder(speech)
    for waveform, frames in zip(speech, together, strict=True):
        alone = encoder([waveform])[0]
        assert frames.shape == alone.shape and frames.dtype == torch.float32
        torch.testing.assert_close(frames, alone, atol=1e-4, rtol=0)
    reverse = encoder(speech[::-1])[::-1]
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
    torch.testing.assert_close(encoder([waveform])[0], expected, atol=1e-4, rtol=0)


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
    torch.testing.assert_close(WhisperEncoder(str(folder), layer=layer)([waveform])[0], expected, atol=1e-4, rtol=0)


def test_whisper_encodes_long_clips_in_windows(tmp_path):
    encoder = WhisperEncoder(str(save_tiny_whisper(tmp_path, window=50)))  # windows of one second
    long = waveforms((40000,))[0]
    frames = encoder([long])[0]
    assert len(frames) == 125
    torch.testing.assert_close(frames[:50], encoder([long[:16000]])[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(frames[100:], encoder([long[32000:]])[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", [("hubert", False), "logmel"], ids=str)
def test_number_of_frames(folders, case):
    encoder = LogMel() if case == "logmel" else encoder_of(folders, case)
    for length, frames in zip(LENGTHS, encoder(waveforms()), strict=True):
        assert frames.shape == ((length - 400) // 320 + 1, encoder.dim)


@pytest.mark.parametrize("case", [("hubert", False), "whisper", "logmel"], ids=str)
def test_averaging_is_left_to_the_readers_so_that_one_cache_serves_all(folders, case):
    def make(**settings):
        return LogMel(**settings) if case == "logmel" else encoder_of(folders, case, **settings)

    plain, averaged = make(), make(average=4)
    assert averaged.average == 4 and averaged.frame_rate == plain.frame_rate
    assert averaged.description() == plain.description()
    for frames, same in zip(plain(waveforms()), averaged(waveforms()), strict=True):
        assert torch.equal(frames, same)


@pytest.mark.parametrize("case", [("hubert", False), "whisper"], ids=str)
def test_concatenated_layers_lie_side_by_side_and_their_caches_stay_apart(folders, case):
    both, mean = (encoder_of(folders, case, layer=[2, 1], join=join) for join in ("concatenate", "mean"))
    one, two = (encoder_of(folders, case, layer=layer) for layer in (1, 2))
    assert both.dim == 2 * one.dim == 2 * mean.dim
    assert both.description() != mean.description()
    single = encoder_of(folders, case, layer=1, join="concatenate")
    assert (single.dim, single.description()) == (one.dim, one.description())
    for frames, first, second in zip(both(waveforms()), one(waveforms()), two(waveforms()), strict=True):
        torch.testing.assert_close(frames, torch.cat((first, second), dim=-1), atol=1e-5, rtol=1e-5)
    with pytest.raises(SerError, match="expected mean or concatenate"):
        encoder_of(folders, case, join="sum")


def test_padded_seconds_stay_within_the_limit(folders, monkeypatch):
    encoder = encoder_of(folders, ("hubert", False), max_batch_seconds=2)
    sizes = []
    encode = encoder._encode
    monkeypatch.setattr(
        encoder, "_encode", lambda batch: sizes.append(len(batch) * max(map(len, batch))) or encode(batch)
    )
    assert len(encoder(waveforms((16000,) * 5 + (8000,) * 3))) == 8
    assert len(sizes) > 1 and max(sizes) <= 32000


@pytest.mark.parametrize("case", [("hubert", False), "whisper", "logmel"], ids=str)
def test_a_waveform_shorter_than_a_frame_is_refused_before_weights_load(folders, case):
    encoder = LogMel() if case == "logmel" else encoder_of(folders, case)
    with pytest.raises(SerError, match="at least one frame"):
        encoder([torch.zeros(100)])
    assert "model" not in vars(encoder)


def test_description_needs_no_weights_and_follows_contents_not_place(folders, tmp_path):
    encoder = encoder_of(folders, ("hubert", False))
    described = encoder.description()
    assert encoder.dim == 16 and "model" not in vars(encoder)
    moved = shutil.copytree(folders["hubert", False], tmp_path / "moved")
    assert SpeechEncoder(str(moved)).description() == described
    assert encoder_of(folders, ("hubert", False), layer=1).description() != described
    assert encoder_of(folders, ("hubert", False), layer=3).description() == described
    other = save_tiny_hubert(tmp_path / "other", seed=1)
    assert SpeechEncoder(str(other)).description()["weights"] != described["weights"]
    assert str(folders["hubert", False]) not in str(described)


def test_later_layers_are_dropped(folders):
    assert len(encoder_of(folders, ("hubert", True), layer=1).model.encoder.layers) == 1
    assert len(encoder_of(folders, "whisper", layer=2).model.layers) == 2


@pytest.mark.parametrize("checkpoint", ["./no/such/folder", "no-such-owner/no-such-model"])
def test_a_checkpoint_that_cannot_be_had_says_what_to_do(checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SerError, match=r"hf download .*features\.checkpoint="):
        SpeechEncoder(checkpoint).description()


def test_unfit_checkpoints_are_refused(folders, tmp_path):
    with pytest.raises(SerError, match="expected whisper"):
        WhisperEncoder(str(folders["hubert", False])).description()
    with pytest.raises(SerError, match="from 0 to 3"):
        SpeechEncoder(str(folders["hubert", False]), layer=4).description()
    with pytest.raises(SerError, match="no transformers checkpoint"):
        SpeechEncoder(str(tmp_path)).description()
    broken = shutil.copytree(folders["hubert", False], tmp_path / "broken")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(SerError, match="cannot be read"):
        SpeechEncoder(str(broken))(waveforms((16000,)))
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
        SpeechEncoder(str(partial))(waveforms((16000,)))
