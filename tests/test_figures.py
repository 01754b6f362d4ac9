import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from fake_runs import EMOTIONS, fake_embeddings, fake_history, fake_table, write_run
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ser.errors import SerError
from ser.evaluation import figures
from ser.evaluation.figures.space import project
from ser.evaluation.figures.style import encode_figure, variant_labels

OF_A_TABLE = [
    figures.confusion,
    figures.speakers,
    figures.classes,
    figures.groups,
    figures.reliability,
    figures.confidence,
    figures.duration,
]
TABLES = {
    "usual": fake_table,
    "24 speakers": lambda: fake_table(24, 8),
    "60 speakers": lambda: fake_table(60, 4),
    "one speaker": lambda: fake_table(1, 12),
    "one utterance": lambda: fake_table(1, 1),
    "absent class": lambda: fake_table().query("emotion != 'happy'").reset_index(drop=True),
    "all right": lambda: fake_table(2, 8, skill=1.0).assign(predicted=lambda table: table["emotion"]),
    "unknown gender and length": lambda: fake_table().assign(gender="", seconds=0.0),
    "foreign names": lambda: fake_table(3, 8).assign(speaker=lambda table: "说话人$x_" + table["speaker"] + "$\u0f40"),
}


@pytest.fixture(autouse=True)
def no_glyph_or_layout_warnings():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        warnings.filterwarnings("error", category=RuntimeWarning)
        yield


def words_of(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def overlapping_ticks(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    found = []
    for axes in figure.axes:
        if axes.name == "polar":
            continue
        for ticks, side in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
            slanted = [tick for tick in ticks if tick.get_text() and tick.get_visible() and not tick.get_rotation()]
            boxes = sorted((tick.get_window_extent(renderer).extents for tick in slanted), key=lambda box: box[side])
            found += [str(axes.get_title()) for low, high in pairwise(boxes) if high[side] < low[side + 2] - 0.5]
    return found


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("draw", OF_A_TABLE, ids=lambda draw: draw.__name__)
def test_every_figure_draws_every_table_without_overlaps(draw, table):
    figure = draw(table(), note="speaker overlap")
    assert "speaker overlap" in words_of(figure)
    assert not overlapping_ticks(figure)


def test_confusion_shows_the_counts_and_names_an_absent_class():
    table = TABLES["absent class"]()
    words = words_of(figures.confusion(table)).split("\n")
    for emotion in ("neutral", "sad", "angry"):
        right = ((table["emotion"] == emotion) & (table["predicted"] == emotion)).sum()
        assert str(right) in words
    assert words.count("–") == len(EMOTIONS)


def test_speaker_bars_carry_counts_and_values():
    table = fake_table(4, 10)
    words = words_of(figures.speakers(table))
    for speaker, part in table.groupby("speaker"):
        assert f"{speaker} (n=10)" in words
        assert f"{(part['emotion'] == part['predicted']).mean():.2f}" in words


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_feature_map_draws_any_number_of_rows(rows):
    table = fake_table(4, 10).head(rows)
    encode_figure(figures.feature_map(table, fake_embeddings(table), note="transductive"), dpi=40)
    encode_figure(figures.feature_map(table, np.ones((rows, 3), np.float32)), dpi=40)


def test_projection_keeps_far_groups_apart_and_repeats():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 8)) + 20 * (np.arange(60) % 2)[:, None]
    points, method = project(features)
    assert method == "t-SNE"
    assert points.shape == (60, 2)
    centres = points[::2].mean(axis=0), points[1::2].mean(axis=0)
    within = max(np.linalg.norm(points[start::2] - centre, axis=1).mean() for start, centre in enumerate(centres))
    assert np.linalg.norm(centres[0] - centres[1]) > 2 * within
    np.testing.assert_array_equal(points, project(features)[0])


@pytest.mark.parametrize(
    "history",
    [
        fake_history(12, 0, 0.6),
        fake_history(1, 0, 0.6),
        fake_history(3, 0, 0.6)[["epoch", "val/loss"]],
        pd.concat([fake_history(5, 0, 0.6), fake_history(8, 1, 0.6).iloc[4:]], ignore_index=True),
        fake_history(6, 0, 0.6).assign(learning_rate=0.0, alpha=np.nan),
        fake_history(6, 0, 0.6).assign(learning_rate=1e-4),
    ],
    ids=["usual", "one epoch", "two columns", "resumed", "no rate", "constant rate"],
)
def test_training_panel_draws_what_is_there(history):
    figure = figures.training_panel(history, note="speaker overlap")
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    assert ("not recorded" in words_of(figure)) == (len(history.columns) == 2 or history["learning_rate"].eq(0).all())


def test_a_resumed_epoch_is_drawn_once():
    history = pd.concat([fake_history(5, 0, 0.6), fake_history(8, 1, 0.6).iloc[4:]], ignore_index=True)
    line = figures.training_panel(history).axes[0].get_lines()[0]
    assert list(line.get_xdata()) == list(range(8))


def test_learning_rate_is_on_a_log_axis_with_plain_labels():
    figure = figures.training_panel(fake_history(12, 0, 0.6))
    figure.draw_without_rendering()
    assert figure.axes[3].get_yscale() == "log"
    assert "mathdefault" not in words_of(figure)


@pytest.mark.parametrize("length", [1, 7, 300])
def test_attention_draws_the_weights_it_was_given(length):
    weights = np.random.default_rng(0).dirichlet(np.ones(length), size=length)
    waveform = np.sin(np.arange(16000) / 20)
    square = figures.attention_over_waveform(waveform, 16000, weights)
    encode_figure(square, dpi=40)
    curves = [axes.get_lines()[0] for axes in square.axes if "uniform" in axes.get_ylabel()]
    np.testing.assert_allclose(curves[0].get_ydata(), weights.mean(axis=0))
    encode_figure(figures.attention_over_waveform(waveform, 16000, weights[0]), dpi=40)


@pytest.mark.parametrize("weights", [np.ones((2, 3)), np.array([0.5, -0.5]), np.array([np.nan]), np.ones(())])
def test_attention_refuses_what_no_softmax_gives(weights):
    with pytest.raises(SerError, match="expected"):
        figures.attention_over_waveform(np.zeros(100), 16000, weights)


@pytest.mark.parametrize("emotions", [2, 8])
def test_ten_variants_draw_without_overlaps(emotions):
    names = [f"enhanced_gru-adversarial_weight=0.{number:02d}-normalization=speaker" for number in range(10)]
    tables = {name: fake_table(24, 8, 0.5, seed) for seed, name in enumerate(names)}
    recall = pd.DataFrame(0.5, names, [f"emotion {number}" for number in range(emotions)])
    ladder = pd.DataFrame({"value": 0.5, "low": 0.4, "high": np.nan, "baseline": [True] + [False] * 9}, index=names)
    runs = pd.DataFrame({"variant": names * 3, "uar": np.linspace(0.3, 0.6, 30), "wa": 0.5})
    drawn = [
        figures.ladder(ladder, note="note"),
        figures.folds(runs),
        figures.radar(recall),
        figures.speaker_matrix(tables),
        figures.confusions(tables),
    ]
    for figure in drawn:
        assert not overlapping_ticks(figure)


def test_shortened_variant_names_stay_apart():
    names = ["a" * 40 + str(number) + "b" * 40 for number in range(12)]
    labels = variant_labels(names)
    assert len(set(labels)) == 12
    assert max(len(line) for label in labels for line in label.split("\n")) <= 38


def test_files_are_whole_images_and_settings_are_left_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    path = figures.save_figure(figures.confusion(fake_table(2, 8)), tmp_path / "new" / "confusion", svg=True)
    assert dict(mpl.rcParams) == before
    assert sorted(file.name for file in path.parent.iterdir()) == ["confusion.png", "confusion.svg"]
    with Image.open(path) as image:
        image.verify()


def test_a_run_and_a_sweep_have_all_their_figures(tmp_path):
    run = write_run(tmp_path, "gru", 1, 1, speaker_overlap=True)
    write_run(tmp_path, "enhanced_gru", 1, 1, speaker_overlap=True)
    one, several = figures.run_figures(run), figures.sweep_figures(tmp_path)
    assert set(one) == {
        "confusion",
        "classes",
        "radar",
        "speakers",
        "groups",
        "features",
        "reliability",
        "confidence",
        "duration",
        "training",
    }
    assert {"ladder", "folds", "radar", "speaker_matrix", "confusions", "features-gru"} <= set(several)
    for figure in [*one.values(), *several.values()]:
        assert "speaker overlap" in words_of(figure)
