"""Networks and layers: padding changes nothing, formulas hold, sizes are those published."""

import math
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ser.adversary import SpeakerClassifier
from ser.data.batching import valid_frames
from ser.errors import SerError
from ser.models.attention import (
    ConcatAttention,
    DotAttention,
    GeneralAttention,
    MultiHeadSelfAttention,
    TanhGeneralAttention,
)
from ser.models.layers import (
    AttentiveStatisticsPooling,
    BidirectionalRNN,
    MeanMaxPooling,
    MeanStdPooling,
    SinusoidalPositions,
    SpeakerNorm,
    masked_max,
    masked_mean,
)
from ser.models.recurrent import GRU, BottleneckGRU, EnhancedGRU, EnhancedGRUReference
from ser.models.statistics import StatisticsLogistic, StatisticsMLP

D, C = 12, 4
LENGTHS = torch.tensor([9, 1, 14, 5])
MATCHING = (DotAttention, GeneralAttention, TanhGeneralAttention, ConcatAttention)
POOLINGS = (MeanMaxPooling, MeanStdPooling, AttentiveStatisticsPooling)


def networks():
    for attention in (None, *MATCHING):
        name = attention.__name__ if attention else "none"
        yield pytest.param(partial(GRU, hidden_size=8, attention=attention), id=f"gru-{name}")
    for network in (EnhancedGRU, EnhancedGRUReference):
        yield pytest.param(partial(network, hidden_size=8), id=network.__name__)
    for switch in ("positions", "speaker_norm", "attention", "enhancement"):
        yield pytest.param(partial(EnhancedGRU, hidden_size=8, layers=2, **{switch: False}), id=f"enhanced-no-{switch}")
    for pooling in POOLINGS[1:]:
        yield pytest.param(partial(EnhancedGRU, hidden_size=8, layers=2, pooling=pooling), id=pooling.__name__)
    for pooling, bottleneck in product(POOLINGS, (None, 5)):
        settings = {"hidden_size": 8, "layers": 2, "pooling": pooling, "bottleneck": bottleneck}
        settings |= {"heads": 4 if bottleneck else None}
        yield pytest.param(partial(BottleneckGRU, **settings), id=f"bottleneck-{pooling.__name__}-{bottleneck}")
    yield pytest.param(StatisticsLogistic, id="statistics-logistic")
    yield pytest.param(partial(StatisticsMLP, hidden_size=8), id="statistics-mlp")


def build(factory):
    torch.manual_seed(0)
    return factory(input_size=D, emotions=C)


def batch(longer=0):
    torch.manual_seed(1)
    frames = torch.zeros(len(LENGTHS), int(LENGTHS.max()) + longer, D)
    for row, length in zip(frames, LENGTHS, strict=True):
        row[:length] = torch.randn(int(length), D) * 3
    return frames


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("factory", networks())
def test_an_utterance_is_judged_alike_in_any_batch(factory, grad):
    network = build(factory).eval()
    longer = batch(longer=20)
    longer[~valid_frames(LENGTHS, longer.shape[1])] = 7.0  # whatever stands in the padding
    with torch.set_grad_enabled(grad):
        together, padded = network(batch(), LENGTHS), network(longer, LENGTHS)
        for index, length in enumerate(LENGTHS):
            alone = network(batch()[index : index + 1, :length], length[None])
            for output in (together, padded):
                torch.testing.assert_close(output.emotion_logits[index], alone.emotion_logits[0], atol=1e-5, rtol=0)
                torch.testing.assert_close(output.pooled[index], alone.pooled[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factory", networks())
def test_shapes_gradients_and_determinism(factory):
    network = build(factory)
    frames = batch(longer=3).requires_grad_()
    torch.manual_seed(2)
    output = network(frames, LENGTHS)
    torch.manual_seed(2)
    assert torch.equal(output.emotion_logits, network(frames, LENGTHS).emotion_logits)
    assert output.emotion_logits.shape == (4, C)
    assert output.pooled.shape == (4, network.pooled_size)
    assert output.attention is None
    loss = output.emotion_logits.logsumexp(-1).sum()
    loss.backward()
    assert frames.grad.isfinite().all()
    assert (frames.grad[~valid_frames(LENGTHS, frames.shape[1])] == 0).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("factory", networks())
def test_trains_in_bf16(factory):
    network = build(factory)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(batch(), LENGTHS)
    output.emotion_logits.float().logsumexp(-1).sum().backward()
    assert output.emotion_logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    exact = network.eval()(batch(), LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        rough = network(batch(), LENGTHS)
    torch.testing.assert_close(rough.emotion_logits.float(), exact.emotion_logits, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("factory", networks())
def test_returned_attention_sums_to_one_over_valid_frames_and_changes_no_logits(factory):
    network = build(factory).eval()
    output = network(batch(), LENGTHS, return_attention=True)
    torch.testing.assert_close(output.emotion_logits, network(batch(), LENGTHS).emotion_logits, atol=1e-5, rtol=0)
    if getattr(network, "attention", None) is None:
        assert output.attention is None
        return
    mask = valid_frames(LENGTHS, batch().shape[1])
    assert output.attention.shape == (4, 14, 14)
    torch.testing.assert_close(output.attention.sum(-1), torch.ones(4, 14))
    assert (output.attention.masked_select(~mask.unsqueeze(1)) == 0).all()


def test_published_parameter_counts():
    def with_adversary(network):
        return parameters(network) + parameters(SpeakerClassifier(network.pooled_size, 10, 4, hidden_size=256))

    with torch.device("meta"):
        assert parameters(GRU(768, 4, attention=DotAttention)) == 2_760_708
        assert with_adversary(EnhancedGRUReference(768, 4)) == 18_582_542
        # Two heads from 12H = 3072 instead of 4H = 1024 to 256.
        assert with_adversary(EnhancedGRU(768, 4)) == 18_582_542 + 2 * 2048 * 256


def test_the_reference_throws_away_enhancement_and_maximum():
    network = build(partial(EnhancedGRUReference, hidden_size=8)).eval()
    states, mask = torch.randn(4, 14, 32), valid_frames(LENGTHS, 14)
    torch.testing.assert_close(network.pool(states, mask), masked_mean(states, mask))
    network(batch(), LENGTHS).emotion_logits.sum().backward()
    assert all((p.grad == 0).all() for p in network.enhance.parameters())


def test_enhanced_pooling_is_mean_and_maximum_of_states_and_enhancement():
    network = build(partial(EnhancedGRU, hidden_size=8)).eval()
    states = torch.randn(4, 14, 32)
    pooled = network.pool(states, valid_frames(LENGTHS, 14))
    for row, length, vector in zip(states, LENGTHS, pooled, strict=True):
        parts = (row[:length], network.enhance(row[:length]))
        torch.testing.assert_close(vector, torch.cat([pool for part in parts for pool in (part.mean(0), part.amax(0))]))


def test_pooling_is_over_the_valid_frames():
    states, mask = torch.randn(4, 14, 6), valid_frames(LENGTHS, 14)
    rows = [row[:length] for row, length in zip(states, LENGTHS, strict=True)]
    expected = {
        MeanMaxPooling: [torch.cat((row.mean(0), row.amax(0))) for row in rows],
        MeanStdPooling: [torch.cat((row.mean(0), (row.var(0, unbiased=False) + 1e-5).sqrt())) for row in rows],
    }
    for pooling, vectors in expected.items():
        torch.testing.assert_close(pooling(6)(states, mask), torch.stack(vectors))
    attentive = AttentiveStatisticsPooling(6)
    nn.init.zeros_(attentive.score[-1].weight)  # every frame has the same weight
    torch.testing.assert_close(attentive(states, mask), MeanStdPooling(6)(states, mask))


def test_noise_on_the_bottleneck_is_for_training_only():
    network = build(partial(BottleneckGRU, hidden_size=8, bottleneck=3, noise=0.5, dropout=0.0))
    frames = batch()  # seeds, too
    assert not torch.equal(network(frames, LENGTHS).pooled, network(frames, LENGTHS).pooled)
    network.eval()
    pooled = network(frames, LENGTHS).pooled
    assert torch.equal(pooled, network(frames, LENGTHS).pooled)
    torch.testing.assert_close(pooled.var(-1, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)  # three values, each
    assert pooled.shape == (4, 3)


def test_each_gru_direction_equals_a_run_on_the_utterance_alone():
    torch.manual_seed(0)
    ours = BidirectionalRNN(D, 5)
    theirs = nn.GRU(D, 5, batch_first=True, bidirectional=True)
    weights = dict(ours.forward_direction.state_dict())
    weights |= {f"{name}_reverse": value for name, value in ours.backward_direction.state_dict().items()}
    theirs.load_state_dict(weights)
    frames = batch(longer=4)
    output = ours(frames, LENGTHS)
    for row, length, states in zip(frames, LENGTHS, output, strict=True):
        torch.testing.assert_close(states[:length], theirs(row[None, :length])[0][0])
    packed = pack_padded_sequence(frames, LENGTHS, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(theirs(packed)[0], batch_first=True, total_length=frames.shape[1])
    torch.testing.assert_close(output * valid_frames(LENGTHS, frames.shape[1]).unsqueeze(-1), expected)


SCORES = {
    DotAttention: lambda a, t, s: t @ s,
    GeneralAttention: lambda a, t, s: (a.query.weight @ t) @ s,
    TanhGeneralAttention: lambda a, t, s: torch.tanh((a.query.weight @ t + a.query.bias) @ s),
    ConcatAttention: lambda a, t, s: a.vector.weight[0] @ torch.tanh(a.pair.weight @ torch.cat((s, t))),
}


@pytest.mark.parametrize("kind", MATCHING)
@pytest.mark.parametrize("grad", [True, False])
def test_matching_attention_equals_the_loop_over_queries(kind, grad):
    torch.manual_seed(0)
    size = 2 * ConcatAttention.channels + 6  # several slices, the last one short
    attention, states = kind(size), torch.randn(2, 7, size) / 4
    lengths = torch.tensor([7, 3])
    with torch.set_grad_enabled(grad):
        context, weights = attention(states, valid_frames(lengths, 7), return_weights=True)
        unweighted, none = attention(states, valid_frames(lengths, 7))
    assert none is None
    for b, length in enumerate(lengths):
        keys = states[b, :length]
        for t in range(length):
            score = torch.stack([SCORES[kind](attention, states[b, t], key) for key in keys])
            torch.testing.assert_close(weights[b, t, :length], score.softmax(0))
            torch.testing.assert_close(context[b, t], score.softmax(0) @ keys)
            torch.testing.assert_close(unweighted[b, t], score.softmax(0) @ keys)


def test_self_attention_equals_the_formula_for_each_head():
    torch.manual_seed(0)
    attention, states, lengths = MultiHeadSelfAttention(16, heads=4).eval(), torch.randn(2, 6, 16), torch.tensor([6, 4])
    output, weights = attention(states, valid_frames(lengths, 6), return_weights=True)
    for b, length in enumerate(lengths):
        valid = states[b, :length]
        query, key, value = attention.project(valid).chunk(3, dim=-1)
        heads = [slice(4 * head, 4 * head + 4) for head in range(4)]
        shares = [(query[:, h] @ key[:, h].T / math.sqrt(4)).softmax(-1) for h in heads]
        context = torch.cat([share @ value[:, h] for share, h in zip(shares, heads, strict=True)], dim=-1)
        expected = attention.norm(valid + attention.combine(context))
        torch.testing.assert_close(output[b, :length], expected)
        torch.testing.assert_close(weights[b, :length, :length], torch.stack(shares).mean(0))


@pytest.mark.parametrize(("network", "setting", "value"), [
    (EnhancedGRU, "heads", 5),
    (EnhancedGRU, "heads", 0),
    (EnhancedGRU, "hidden_size", 1),
    (EnhancedGRU, "attention_dropout", 1.5),
    (EnhancedGRU, "layers", 0),
    (GRU, "hidden_size", 0),
    (GRU, "dropout", -0.1),
    (GRU, "layers", 1.5),
    (BottleneckGRU, "heads", 0),
    (BottleneckGRU, "bottleneck", 0),
    (BottleneckGRU, "noise", math.nan),
    (BottleneckGRU, "dropout", "much"),
])  # fmt: skip
def test_settings_out_of_range_are_refused(network, setting, value):
    with pytest.raises(SerError, match=f"model.{setting}={value} was given, expected"):
        network(D, C, **{"hidden_size": 8, setting: value})


def test_attention_dropout_is_a_setting_of_its_own():
    assert EnhancedGRU(D, C, hidden_size=8, dropout=0.3).attention.dropout.p == 0.3
    assert EnhancedGRU(D, C, hidden_size=8, dropout=0.3, attention_dropout=0.0).attention.dropout.p == 0.0


def test_speaker_norm_takes_away_level_and_spread_of_each_utterance():
    torch.manual_seed(0)
    norm, frames, mask = SpeakerNorm(D), batch(), valid_frames(LENGTHS, 14)
    level, spread = torch.randn(4, 1, D) * 5, torch.rand(4, 1, D) + 0.5
    moved = norm((frames * spread + level) * mask.unsqueeze(-1), mask)
    torch.testing.assert_close(moved, norm(frames, mask), atol=1e-4, rtol=1e-3)
    for row, length, result in zip(frames, LENGTHS, norm(frames, mask), strict=True):
        valid = row[:length]
        expected = (valid - valid.mean(0)) / torch.sqrt(valid.var(0, correction=0) + 1e-5)
        torch.testing.assert_close(result[:length], expected, atol=1e-5, rtol=1e-5)
        assert (result[length:] == 0).all()


def test_speaker_norm_learns_scale_and_shift_and_survives_one_frame():
    norm = SpeakerNorm(3)
    with torch.no_grad():
        norm.scale.copy_(torch.tensor([1.0, 2.0, 3.0]))
        norm.shift.copy_(torch.tensor([4.0, 5.0, 6.0]))
    frames = torch.randn(2, 1, 3, requires_grad=True)
    output = norm(frames, torch.ones(2, 1, dtype=torch.bool))
    torch.testing.assert_close(output, norm.shift.expand(2, 1, 3))
    output.sum().backward()
    assert frames.grad.isfinite().all()


@pytest.mark.parametrize("channels", [6, 7])
def test_positions_follow_the_formula_beyond_any_table(channels):
    table = SinusoidalPositions(channels)(torch.zeros(1, 6000, channels))[0]
    for p, channel in product((0, 1, 17, 5999), range(channels)):
        angle = p / 10000 ** (2 * (channel // 2) / channels)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert table[p, channel].item() == pytest.approx(expected, abs=1e-3)


def test_pooling_sees_valid_frames_only():
    frames, mask = batch() - 100, valid_frames(LENGTHS, 14)
    for row, length, mean, top in zip(
        frames, LENGTHS, masked_mean(frames, mask), masked_max(frames, mask), strict=True
    ):
        torch.testing.assert_close(mean, row[:length].mean(0))
        assert torch.equal(top, row[:length].amax(0))
