"""Attention over waveforms: kept with a run, and drawn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from checkpoints import GRU, save_checkpoint, voice, write_audio
from fake_runs import write_run

from ser.data.corpus import Utterance
from ser.errors import SerError
from ser.evaluation.figures import network
from ser.evaluation.figures.network import Attended, read_attention, write_attention
from ser.evaluation.figures.style import encode_figure
from ser.evaluation.runs import load_run
from ser.inference.files import predict_files, statistics_by_folder
from ser.inference.recognizer import Recognizer
from ser.inference.vad import EnergyGate


def attended(weights):
    return Attended("a.wav: sad (80%)", 1.0, np.tile([-0.5, 0.5], (100, 1)), weights)


@pytest.mark.filterwarnings("error::UserWarning", "error::RuntimeWarning")  # of glyphs and layout
@pytest.mark.parametrize("length", [1, 7, 300])
def test_attention_draws_the_weights_it_was_given(length):
    weights = np.random.default_rng(0).dirichlet(np.ones(length), size=2)
    figure = network.attention_over_waveform([attended(row) for row in weights])
    encode_figure(figure, dpi=40)
    curves = [axes.get_lines()[0] for axes in figure.axes if "weight" in axes.get_ylabel()]
    for curve, row in zip(curves, weights, strict=True):
        np.testing.assert_allclose(curve.get_ydata(), row)


@pytest.mark.parametrize("weights", [np.ones((2, 3)), np.array([0.5, -0.5]), np.array([np.nan]), np.ones(())])
def test_attention_refuses_what_no_softmax_gives(weights):
    with pytest.raises(SerError, match="expected"):
        network.attention_over_waveform([attended(weights)])


def test_what_is_drawn_is_the_answer_of_the_table_over_the_whole_file(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "best.ckpt", model=GRU, kind="speaker", max_seconds=2.0)
    recognizer, gate = Recognizer.from_checkpoint(path), EnergyGate()
    sounds = {"a": torch.cat((torch.zeros(5 * 16000), voice(4.0))), "b": torch.zeros(16000), "c": voice(1.0, 1)}
    files = [write_audio(tmp_path / name / "1.wav", samples) for name, samples in sounds.items()]
    statistics_of, drawn = statistics_by_folder(recognizer, files), []
    table = predict_files(recognizer, files, statistics_of=statistics_of, gate=gate).table.drop(index=1)  # silence
    draw = network.attention_over_waveform
    monkeypatch.setattr(network, "attention_over_waveform", lambda shown: drawn.extend(shown) or draw(shown))
    network.draw_attention(recognizer, files, tmp_path / "drawn", statistics_of, gate)
    assert len(list((tmp_path / "drawn").iterdir())) == len(drawn) == 2
    for one, row in zip(drawn, table.itertuples(), strict=True):
        assert one.title.endswith(f"{row.predicted} ({100 * row.confidence:.0f}%)")
        assert one.seconds == row.seconds and sum(one.weights) == pytest.approx(1, abs=1e-3)
    per_second, weights = len(drawn[0].weights) / 9, np.array(drawn[0].weights)
    places = np.flatnonzero(weights) / per_second  # two seconds from 1.5 s before the voice on
    assert (places.min(), places.max()) == pytest.approx((3.5, 5.5), abs=0.1)


def test_the_surest_right_and_wrong_answers_of_a_run_are_kept_with_their_attention(tmp_path):
    run = write_run(tmp_path)
    recognizer = Recognizer.from_checkpoint(save_checkpoint(run / "checkpoints" / "best.ckpt"))
    table = load_run(run).predictions
    path = write_audio(tmp_path / "a.wav", voice(1.0))
    utterances = [Utterance(name, path, "sad", "01", 1, "") for name in table["id"]]
    cache = SimpleNamespace(read=lambda name: recognizer.frames([voice(1.0)])[0].half().numpy())  # no encoder is run
    write_attention(run, utterances, recognizer.encoder, cache)
    found = read_attention(run)
    assert len(found) == 4
    for one in found:
        assert sum(one.weights) == pytest.approx(1.0, abs=1e-4) and one.seconds == 1.0
    shown = [table.set_index("id").loc[one.title.partition(":")[0]] for one in found]
    assert [row["emotion"] == row["predicted"] for row in shown] == [True, True, False, False]
