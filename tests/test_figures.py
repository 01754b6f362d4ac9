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
from ser.evaluation.figures import (
    FIGURES,
    caption_of,
    figures_of_run,
    figures_of_sweep,
    network,
    run,
    sweep,
    training,
    write_figures,
)
from ser.evaluation.figures.network import project
from ser.evaluation.figures.style import encode_figure, save_figure, variant_labels
from ser.evaluation.runs import find_runs, load_run
from ser.evaluation.summary import summarize

OF_A_TABLE = [
    run.confusion,
    run.speakers,
    run.classes,
    run.groups,
    run.reliability,
    run.confidence,
    run.duration,
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
            straight = [t for t in ticks if t.get_text() and t.get_visible() and t.get_rotation() % 90 == 0]
            boxes = sorted((tick.get_window_extent(renderer).extents for tick in straight), key=lambda box: box[side])
            found += [str(axes.get_title()) for low, high in pairwise(boxes) if high[side] < low[side + 2] - 0.5]
    return found


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("draw", OF_A_TABLE, ids=lambda draw: draw.__name__)
def test_every_figure_draws_every_table_without_overlaps(draw, table):
    figure = draw(table(), note="speaker overlap")
    assert "speaker overlap" in words_of(figure)
    assert not overlapping_ticks(figure)


@pytest.mark.parametrize("classes", [31, 100, 130])
def test_the_names_of_many_classes_do_not_overlap(classes):
    emotions = [f"quite_long_name_{number:03d}" for number in range(classes)]
    figure = run.draw_confusion(np.eye(classes, dtype=int), emotions)
    assert not overlapping_ticks(figure)
    assert all(len(axes.get_xticklabels()) == len(axes.get_yticklabels()) >= min(classes, 65) for axes in figure.axes)


def test_confusion_shows_the_counts_and_names_an_absent_class():
    table = TABLES["absent class"]()
    words = words_of(run.confusion(table)).split("\n")
    for emotion in ("neutral", "sad", "angry"):
        right = ((table["emotion"] == emotion) & (table["predicted"] == emotion)).sum()
        assert str(right) in words
    assert words.count("–") == len(EMOTIONS)


def test_speaker_bars_carry_counts_and_values():
    table = fake_table(4, 10)
    words = words_of(run.speakers(table))
    for speaker, part in table.groupby("speaker"):
        assert f"{speaker} (n=10)" in words
        assert f"{100 * (part['emotion'] == part['predicted']).mean():.1f}" in words.split("\n")


@pytest.mark.parametrize("rows", [1, 2, 5, 40])
def test_feature_map_draws_any_number_of_rows(rows):
    table = fake_table(4, 10).head(rows)
    encode_figure(network.feature_map(table, fake_embeddings(table), note="transductive"), dpi=40)
    encode_figure(network.feature_map(table, np.ones((rows, 3), np.float32)), dpi=40)


def test_a_feature_map_names_the_most_frequent_of_many_classes():
    emotions = tuple(f"emotion {number}" for number in range(100))
    table = fake_table(30, 40, emotions=emotions)
    figure = network.feature_map(table, fake_embeddings(table, emotions=emotions), most=400)
    figure.draw_without_rendering()  # a legend higher than the figure would be a warning
    assert "others" in words_of(figure) and words_of(figure).count("emotion ") == 28


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
    figure = training.training_panel(history, note="speaker overlap")
    figure.draw_without_rendering()
    assert len(figure.axes) == 6
    assert ("not recorded" in words_of(figure)) == (len(history.columns) == 2 or history["learning_rate"].eq(0).all())


def test_a_resumed_epoch_is_drawn_once():
    history = pd.concat([fake_history(5, 0, 0.6), fake_history(8, 1, 0.6).iloc[4:]], ignore_index=True)
    line = training.training_panel(history).axes[0].get_lines()[0]
    assert list(line.get_xdata()) == list(range(8))


def test_alpha_and_the_emotion_part_are_drawn_only_with_an_adversary():
    history = fake_history(6, 0, 0.6)
    assert {"alpha of the gradient reversal", "train, emotion part"} <= set(
        words_of(training.training_panel(history)).split("\n")
    )
    without = words_of(training.training_panel(history.drop(columns="train/speaker_loss")))
    assert "alpha" not in without and "emotion part" not in without
    assert "gradient norm" in without


@pytest.mark.parametrize("kept", [2, None])
def test_the_epoch_that_was_kept_is_marked_and_not_the_best(kept):
    figure = training.training_panel(fake_history(6, 0, 0.6), kept)
    for axes in figure.axes:
        marks = [list(line.get_xdata()) for line in axes.get_lines() if line.get_label() == "epoch that is kept"]
        assert marks == ([] if kept is None else [[2, 2]])


def test_each_score_of_training_and_validation_is_drawn_once():
    history = fake_history(6, 0, 0.6)
    history += np.linspace(0, 1e-3, len(history.columns))  # no two columns alike
    drawn = [line.get_ydata() for axes in training.training_panel(history).axes for line in axes.get_lines()]
    for column in ("train/loss", "val/loss", "train/uar", "val/uar", "train/wa", "val/wa", "train/f1", "val/f1"):
        assert sum(np.array_equal(values, history[column]) for values in drawn) == 1


def test_learning_rate_is_on_a_log_axis_with_plain_labels():
    figure = training.training_panel(fake_history(12, 0, 0.6))
    figure.draw_without_rendering()
    assert figure.axes[4].get_yscale() == "log"
    assert "mathdefault" not in words_of(figure)


@pytest.mark.parametrize("emotions", [2, 8])
def test_ten_variants_draw_without_overlaps(emotions):
    names = [f"enhanced_gru-adversarial_weight=0.{number:02d}-normalization=speaker" for number in range(10)]
    tables = {name: fake_table(24, 8, 0.5, seed) for seed, name in enumerate(names)}
    recall = pd.DataFrame(0.5, names, [f"emotion {number}" for number in range(emotions)])
    ladder = pd.DataFrame({"value": 0.5, "low": 0.4, "high": np.nan, "baseline": [True] + [False] * 9}, names)
    ladder["folds"] = ""
    runs = pd.DataFrame({"variant": names * 3, "uar": np.linspace(0.3, 0.6, 30), "wa": 0.5})
    drawn = [
        sweep.ladder(ladder, note="note"),
        sweep.folds(runs),
        sweep.radar(recall, "Recall"),
        sweep.speaker_matrix(tables),
        sweep.confusions(tables),
    ]
    for figure in drawn:
        assert not overlapping_ticks(figure)


def test_shortened_variant_names_stay_apart():
    names = ["a" * 40 + str(number) + "b" * 40 for number in range(12)]
    labels = variant_labels(names)
    assert len(set(labels)) == 12
    assert max(len(line) for label in labels for line in label.split("\n")) <= 38


def test_a_long_label_begins_with_its_name_and_is_cut_at_its_end():
    settings = [f"data.corpus{number}.map={{bored:neutral,happy:sad}}" for number in range(4)]
    (label,) = variant_labels([", ".join(["recommended", *settings])])
    assert label.startswith("recommended,\ndata.corpus0.map={bored:") and label.endswith("…")
    assert len(label.split("\n")) == 3 and max(map(len, label.split("\n"))) <= 34


def test_files_are_whole_images_and_settings_are_left_alone(tmp_path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    figure, target = run.confusion(fake_table(2, 8)), tmp_path / "new" / "features-a=0.5"
    save_figure(figure, target, ("png", "pdf", "svg"))
    assert dict(mpl.rcParams) == before
    files = {file.suffix: file for file in target.parent.iterdir()}
    assert {file.stem for file in files.values()} == {"features-a=0.5"}
    with Image.open(files[".png"]) as image:
        image.verify()
    assert files[".pdf"].read_bytes().startswith(b"%PDF")
    assert "<text" in files[".svg"].read_text()  # text stays text
    save_figure(run.confusion(fake_table(2, 8)), tmp_path / "again", ("png", "pdf", "svg"))
    assert all((tmp_path / f"again{kind}").read_bytes() == file.read_bytes() for kind, file in files.items())
    with pytest.raises(SerError, match="choose among png, pdf, svg"):
        save_figure(figure, target, ["jpg"])


def test_variants_with_other_folds_are_marked_in_the_picture(tmp_path):
    for variant, folds in (("gru", (1, 2, 3)), ("enhanced_gru", (2,))):
        for fold in folds:
            write_run(tmp_path, variant, fold, folds=4)
    runs = find_runs(tmp_path)
    (inputs,) = (inputs for _, inputs in sweep._pooled_uar(sweep.Sweep(runs, summarize(runs))))
    shown = words_of(sweep.ladder(*inputs))
    assert "enhanced_gru\n(1 of 4 folds)" in shown and "3 of" not in shown


def test_figures_of_a_sweep_name_variants_without_what_all_share(tmp_path):
    for variant in ("gru,optimizer.lr=0.1", "enhanced_gru,optimizer.lr=0.1"):
        write_run(tmp_path, variant, 1, transductive=variant.startswith("gru"))
    runs = find_runs(tmp_path)
    drawn = figures_of_sweep(runs, summarize(runs))
    assert {"features-gru", "features-enhanced_gru"} <= set(drawn)
    assert "enhanced_gru" in words_of(drawn["ladder"]) and "optimizer" not in words_of(drawn["ladder"])


def test_a_grouping_with_one_group_is_left_out():
    table = fake_table(8, 24)
    assert [axes.get_title("left") for axes in run.groups(table).axes] == ["by gender", "by session"]
    assert words_of(run.groups(table)).lower().count("gender") == 1
    assert [axes.get_title("left") for axes in run.groups(table.assign(session=1)).axes] == ["by gender"]
    assert "one group of each kind" in words_of(run.groups(table.assign(session=1, gender="")))


def test_line_and_band_of_the_speakers_are_explained():
    legend = run.speakers(fake_table(8, 24)).legends[0]
    assert [entry.get_text() for entry in legend.get_texts()] == ["mean over speakers", "mean ± one std"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder, "gru", 1, 1, speaker_overlap=True)
    write_run(folder, "enhanced_gru", 1, 1, speaker_overlap=True, transductive=True)
    return folder


@pytest.fixture(scope="module")
def drawn(folder):
    runs = find_runs(folder)
    return figures_of_run(load_run(folder / "gru/fold1/seed1")), figures_of_sweep(runs, summarize(runs))


def test_a_run_and_a_sweep_have_all_their_figures(drawn):
    listed = [{entry.name for entry in FIGURES if entry.source == source} for source in ("run", "sweep")]
    assert set(drawn[0]) == listed[0]
    assert {name.partition("-")[0] for name in drawn[1]} == listed[1]
    assert {"features-gru", "features-enhanced_gru"} <= set(drawn[1])
    assert all(caption_of(name) for figures in drawn for name in figures)


def test_no_two_figures_share_a_title_and_all_carry_the_warnings(drawn):
    for figures in drawn:
        titles = [figure.get_suptitle() for figure in figures.values()]
        assert len(set(titles)) == len(titles)
        assert all("speaker overlap" in words_of(figure) for figure in figures.values())
    several = drawn[1]
    assert "transductive" in words_of(several["features-enhanced_gru"])
    assert "transductive" not in words_of(several["features-gru"])


def test_figures_of_a_run_are_written_whole(folder):
    run_folder = folder / "gru/fold1/seed1"
    (run_folder / "figures.partial").mkdir()
    write_figures(run_folder, formats=("png", "svg"))
    names = {entry.name for entry in FIGURES if entry.source == "run"}
    written = {file.name for file in (run_folder / "figures").iterdir()}
    assert written == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    write_figures(run_folder, formats=("pdf",))
    kept = {file.name for file in (run_folder / "figures").iterdir()}
    assert kept == written | {f"{name}.pdf" for name in names}
    assert not (run_folder / "figures.partial").exists()
