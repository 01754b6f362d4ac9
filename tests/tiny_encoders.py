"""Small randomly initialised encoders in the form that the Hub gives them: config, weights, preprocessor settings."""

import json
from pathlib import Path

import torch
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

# Kernels and strides of the real front, so one frame per 320 samples, with few channels.
FRONT = {
    "conv_dim": (8,) * 7,
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}


def save_tiny_hubert(folder, large=False, dim=16, layers=3, seed=0):
    """The base form (group norm, post-norm, waveforms as they are) or the large form (layer norm, pre-norm)."""
    return _save_speech(HubertModel, HubertConfig, folder, large, dim, layers, seed)


def save_tiny_wavlm(folder, large=False, dim=16, layers=3, seed=0):
    return _save_speech(WavLMModel, WavLMConfig, folder, large, dim, layers, seed)


def save_tiny_wav2vec2(folder, large=False, dim=16, layers=3, seed=0):
    return _save_speech(Wav2Vec2Model, Wav2Vec2Config, folder, large, dim, layers, seed)


def save_tiny_whisper(folder, encoder_only=True, dim=16, layers=3, window=1500, seed=0):
    """Whisper with a window of ``window`` frames (real ones: 1500, which is 30 seconds)."""
    torch.manual_seed(seed)
    config = WhisperConfig(
        d_model=dim,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=2 * dim,
        decoder_ffn_dim=2 * dim,
        max_source_positions=window,
        max_target_positions=8,
        vocab_size=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperModel(config)
    (model.encoder if encoder_only else model).half().save_pretrained(folder)
    seconds = window * 320 // 16000
    WhisperFeatureExtractor(chunk_length=seconds).save_pretrained(folder)
    return Path(folder)


def _save_speech(model_class, config_class, folder, large, dim, layers, seed):
    torch.manual_seed(seed)
    config = config_class(
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=2 * dim,
        feat_extract_norm="layer" if large else "group",
        do_stable_layer_norm=large,
        conv_bias=large,
        **FRONT,
    )
    model = model_class(config)
    with torch.no_grad():  # the default deviation of 0.02 leaves a small network almost linear
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
    model.save_pretrained(folder)
    settings = {
        "do_normalize": large,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": large,
        "sampling_rate": 16000,
    }
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(settings))
    return Path(folder)
