"""Where a gate finds speech, and what of a recording the model is given."""

import numpy as np
import pytest
import torch
from checkpoints import PROBABILITIES, voice, write_audio

from ser.inference.files import predict_files
from ser.inference.timeline import predict_gated, predict_long, timeline
from ser.inference.vad import EnergyGate, SileroGate


def test_gates_find_speech():
    loud = voice(2.0)
    found = EnergyGate()(loud)
    assert sum(end - begin for begin, end in found) > 16000
    later = [(begin - 32160, end - 32160) for begin, end in EnergyGate()(torch.cat((torch.zeros(32160), loud)))]
    assert later == found
    assert SileroGate()(torch.zeros(16000)) == []


def gate_of(samples):
    """A gate that takes what is loud for speech."""
    return [(place, place + 1) for place in torch.nonzero(samples.abs() > 0.01)[:, 0].tolist()]


@pytest.mark.parametrize("attention", [False, True])
def test_long_pauses_are_not_given_to_the_model(recognizer, tmp_path, attention):
    speech, pause = voice(3.0, 4).clamp(-1, 1), torch.zeros(16000 * 20)
    short = torch.zeros(24000)  # so much of a pause is heard on each side
    (alone,) = predict_gated(recognizer, [torch.cat((short, speech, short))], None, EnergyGate(), attention)
    parts = [pause, speech, pause, speech, pause]
    for several, among in ((parts[:3], 3), (parts, 6)):
        whole = torch.cat(several)
        (found,) = predict_gated(recognizer, [whole], None, EnergyGate(), attention)
        heard = torch.cat([short, *[speech, short, short] * (among // 3)])[:-24000]
        same = recognizer.predict_batch([heard], attention=attention)[0]
        assert list(found.probabilities.values()) == pytest.approx(list(same.probabilities.values()), abs=0.02)
        assert found.seconds == len(whole) / 16000 and found.speech_seconds == pytest.approx(among, abs=0.3)
        if attention:
            assert found.attention.sum() == pytest.approx(1, abs=1e-3)
            assert len(found.attention) == pytest.approx(50 * found.seconds, abs=50)
            assert found.attention[: 18 * 50].sum() == 0 < found.attention[19 * 50 : 24 * 50].sum()
    assert alone.seconds == 6.0
    path = write_audio(tmp_path / "a.wav", torch.cat(parts[:3]))
    table = predict_files(recognizer, [path], gate=EnergyGate()).table
    assert table["p_happy"][0] == pytest.approx(alone.probabilities["happy"], abs=0.02) and table["seconds"][0] == 43.0


def test_windows_without_speech_do_not_count(recognizer, tmp_path):
    loud = voice(62.0, 3).clamp(-1, 1)
    path = write_audio(tmp_path / "half.wav", torch.cat((torch.zeros(62 * 16000), loud)))
    table = timeline(recognizer, path, 10.0, 5.0, gate=gate_of)
    first = table[table["end"] <= 60]
    assert set(first["predicted"]) == {"no speech"} and (first["speech_seconds"] == 0).all()
    spoken = table[table["start"] >= 60]
    assert "no speech" not in set(spoken["predicted"])
    whole = predict_long(recognizer, path, gate=gate_of)
    heard = table[table["predicted"] != "no speech"]
    assert list(whole.probabilities.values()) == pytest.approx(heard[PROBABILITIES].to_numpy().mean(axis=0), abs=1e-6)
    silence = write_audio(tmp_path / "silence.wav", np.zeros(61 * 16000, np.float32))
    assert predict_files(recognizer, [silence], gate=gate_of).table["predicted"].tolist() == ["no speech"]
