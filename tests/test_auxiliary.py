"""auxiliary_weight: emotions outside the task train a second head, and nothing else sees them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fake_corpora import write_iemocap, write_ravdess
from omegaconf import open_dict
from test_module import DIM
from torch.nn.utils.rnn import pad_sequence

from ser import training
from ser.data.augmentation import Augmentation
from ser.data.corpora.iemocap import iemocap
from ser.data.corpora.named import named
from ser.data.corpus import Corpus
from ser.data.datamodule import Batch
from ser.errors import SerError
from ser.evaluation.runs import find_runs, refuse_mixed
from ser.losses import AuxiliaryEmotions, CrossEntropy
from ser.models.statistics import StatisticsMLP
from ser.module import EmotionModule
from ser.run.building import other_emotions

TASK = ["data.emotions=[happy,sad]", "trainer.max_epochs=2", "fold=1"]


def split_of(folder):
    return json.loads((folder / "split.json").read_text())


@pytest.mark.parametrize("words", [["model=gru"], ["model=statistics_mlp", "adversarial=erasure"]], ids=str)
def test_others_by_training_speakers_are_learned_and_never_predicted(configure, tmp_path, words):
    folders = [tmp_path / name for name in ("without", "with")]
    for folder, weight in zip(folders, (0, 0.5), strict=True):
        training.run(configure(*words, *TASK, f"auxiliary_weight={weight}", folder=folder))
    without, record = map(split_of, folders)
    assert record["hash"] == without["hash"] and "auxiliary" not in without
    learned = record.pop("auxiliary")
    assert learned["emotions"].keys() == {"angry", "neutral"} and all(learned["emotions"].values())
    assert set(learned["speakers"]) == set(record["parts"]["train"]["speakers"])
    answered = [pd.read_csv(folder / "predictions.csv") for folder in folders]
    assert list(answered[0]["id"]) == list(answered[1]["id"])
    assert not set(learned["ids"]) & set(answered[1]["id"])
    columns = ["p_happy", "p_sad"]
    assert not np.allclose(answered[0][columns], answered[1][columns])  # they changed the network
    histories = [pd.read_csv(folder / "history.csv") for folder in folders]
    assert "train/auxiliary_loss" in histories[1] and "train/auxiliary_loss" not in histories[0]


def test_logistic_regression_is_the_same_baseline_with_and_without(configure, tmp_path):
    words = ["model=statistics_logistic", *TASK, "logger=none", "figures=false", "leakage=false"]
    tables = []
    for weight in (0, 0.5):
        cfg = configure(*words, f"auxiliary_weight={weight}", folder=tmp_path / str(weight), tiny=False)
        training.run(cfg)
        tables.append((tmp_path / str(weight) / "predictions.csv").read_text())
    assert tables[0] == tables[1]


def module_with(weight, **settings):
    torch.manual_seed(0)
    network = StatisticsMLP(DIM, 2, hidden_size=4, dropout=0.0)
    auxiliary = AuxiliaryEmotions(network.pooled_size, 4, weight)
    make = lambda parameters: torch.optim.SGD(parameters, lr=0.1)  # noqa: E731
    settings = {"augmentation": Augmentation(), "auxiliary": auxiliary} | settings
    return EmotionModule(network, None, CrossEntropy(), make, ["happy", "sad"], **settings)


def step(module, emotions):
    generator = torch.Generator().manual_seed(1)
    frames = pad_sequence([torch.randn(5, DIM, generator=generator) for _ in emotions], batch_first=True)
    zeros = torch.zeros(len(emotions), dtype=torch.int64)
    batch = Batch(frames, zeros + 5, torch.tensor(emotions), zeros, zeros, list("abcdef")[: len(emotions)])
    module.log = lambda *arguments, **keywords: None
    loss = module.training_step(batch, 1)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return float(loss), gradients


def test_the_network_s_own_head_learns_from_the_task_alone():
    first, second = (step(module_with(0.5), emotions)[1] for emotions in ([0, 1, 2, 2], [0, 1, 3, 2]))
    torch.testing.assert_close(first["network.head.weight"], second["network.head.weight"])
    assert not torch.allclose(first["network.frame_layer.0.weight"], second["network.frame_layer.0.weight"])


def test_each_utterance_weighs_the_same_however_many_others_a_batch_has():
    alone, _ = step(module_with(0.0), [0, 1])
    beside, _ = step(module_with(0.0), [0, 1, 2, 3])
    assert beside == pytest.approx(alone / 2, rel=1e-5)


def test_a_batch_of_others_alone_trains_the_second_head():
    """The total is the task's loss, here none, and the weighted loss of the second head."""
    loss, gradients = step(module_with(1.0), [2, 3])
    assert loss == pytest.approx(2 * step(module_with(0.5), [2, 3])[0])
    assert np.isfinite(loss) and gradients["auxiliary.head.weight"].abs().sum() > 0
    assert not gradients["network.head.weight"].any()


@pytest.mark.parametrize("words, sentence", [
    (["auxiliary_weight=0.5"], "no utterance of another emotion"),
    (["auxiliary_weight=0.5", *TASK, "augmentation.mixup_alpha=0.2"], "was given with mixup"),
    (["auxiliary_weight=-1"], "expected a number of at least 0"),
])  # fmt: skip
def test_what_does_not_go_with_it_gets_one_sentence(configure, tmp_path, words, sentence):
    with pytest.raises(SerError, match=sentence):
        training.run(configure(*words, folder=tmp_path / "run"))


def test_a_corpus_of_one_set_of_emotions_has_no_others(configure):
    cfg = configure("auxiliary_weight=0.5")
    with open_dict(cfg):
        del cfg.data.emotions
    with pytest.raises(SerError, match=r"expected a single corpus with data\.emotions"):
        other_emotions(cfg, Corpus("fixed", ("happy", "sad"), ()))


def test_a_test_recording_labelled_otherwise_is_refused_among_the_others(configure, tmp_path, manifest):
    """The same file, under another id, a training speaker and an emotion outside the task."""
    training.run(configure(*TASK, folder=tmp_path / "run"))
    parts = split_of(tmp_path / "run")["parts"]
    table = pd.read_csv(manifest)
    tested = table[table["speaker"].isin(parts["test"]["speakers"]) & (table["emotion"] == "happy")].iloc[0]
    learned = table[table["speaker"] == parts["train"]["speakers"][0]].iloc[0]
    row = {**learned, "emotion": "angry", "path": tested["path"], "id": "copy"}
    other = manifest.with_name("copied.csv")
    table.assign(id=[f"u{number}" for number in range(len(table))]).pipe(
        lambda found: pd.concat([found, pd.DataFrame([row])])
    ).to_csv(other, index=False)
    words = [*TASK, f"data.manifest={other}", "auxiliary_weight=0.5"]
    with pytest.raises(SerError, match=r"recording\(s\) in two parts"):
        training.run(configure(*words, folder=tmp_path / "copied"))


def test_null_stands_for_all_emotions_of_a_corpus(tmp_path):
    ravdess = named("ravdess", write_ravdess(tmp_path / "RAVDESS", actors=4), None)
    assert ravdess.emotions == ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    assert len(ravdess.utterances) == 4 * 60
    found = iemocap(write_iemocap(tmp_path / "IEMOCAP", seconds=0.2), None, merge_excited=False)
    assert set(found.emotions) == {utterance.emotion for utterance in found.utterances} > {"neutral", "excited"}


def test_the_folds_of_one_variant_are_summarised_together(configure, tmp_path):
    words = ["model=gru", *TASK[:2], "auxiliary_weight=0.5", "logger=none"]
    for fold in (1, 2):
        training.run(configure(*words, f"fold={fold}", folder=tmp_path / "variant" / f"fold{fold}" / "seed1"))
    runs = find_runs(tmp_path / "variant")
    refuse_mixed(runs)
    assert sorted(run.fold for run in runs) == [1, 2]
