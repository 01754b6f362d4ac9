"""Every file in conf/ composes, builds its object and trains; a new file is covered without a change here.

A corpus needs ``write_<option>`` in fake_corpora, a pretrained encoder of a new kind an entry in ``ENCODERS``.
"""

import json
import os
import subprocess
import sys
import zlib
from functools import partial
from importlib.util import find_spec

import fake_corpora
import numpy as np
import pandas as pd
import pytest
import tiny_encoders
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from ser import training
from ser.config import CONFIG_FOLDER, compose_config, instantiate
from ser.config.page import register_resolvers
from ser.errors import SerError
from ser.evaluation.scores import scores

ROOT = CONFIG_FOLDER.parent
GROUPS = [
    group
    for entry in OmegaConf.load(CONFIG_FOLDER / "train.yaml").defaults
    if OmegaConf.is_dict(entry)
    for group in entry
    if group not in ("hydra", "experiment", "logger", "trainer", "callbacks")
]
SMALL = ["model.hidden_size=8", "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "callbacks.progress_bar=null",
         "leakage=false", "figures=false", "logger=none"]  # fmt: skip
SHORT = ["data=synthetic_features", "batches.max_seconds=1"]  # most time of a step goes into its longest utterance
CORPORA = {  # settings of fake_corpora.write_<option> that keep a corpus small
    "manifest": {"session": True, "seconds": 0.3},
    "ravdess": {"actors": 12, "repetitions": 1},
    "emodb": {"texts": 1},
    **{name: {"seconds": 0.3} for name in ("iemocap", "iemocap_5", "iemocap_6")},
}
EXTRAS = ("audformat", "datasets")  # options and the libraries that they need
PARTS = ("ravdess", "emodb")  # of data=combined
PROTOCOLS = {  # what a corpus needs
    "combined": "corpus",
    "meld": "given",
    "msp_podcast": "given",
    "tess": "random",  # two speakers
    "savee": "session",  # each speaker alone in a session
    "casia": "session",
}
ENCODERS = {  # by how the file's name begins
    "hubert_large": lambda folder: tiny_encoders.save_tiny_hubert(folder, large=True),
    "hubert": tiny_encoders.save_tiny_hubert,
    "ssl": tiny_encoders.save_tiny_hubert,
    "wavlm": tiny_encoders.save_tiny_wavlm,
    "wav2vec2": tiny_encoders.save_tiny_wav2vec2,
    "whisper": partial(tiny_encoders.save_tiny_whisper, layers=4),
}


def options(group):
    folder = CONFIG_FOLDER / group
    files = folder.rglob("*.yaml") if group == "experiment" else folder.glob("*.yaml")
    files = [path for path in files if path.stem not in EXTRAS or find_spec(path.stem)]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


RUNS = max(len(options(group)) for group in GROUPS)


def words_of_run(number):
    """One option a group; after ``RUNS`` runs each option of each group was used."""
    chosen = {group: options(group)[number % len(options(group))] for group in GROUPS}
    usual = "session" if chosen["protocol"] in ("given", "corpus") else chosen["protocol"]
    chosen["protocol"] = PROTOCOLS.get(chosen["data"], usual)
    return [f"{group}={name}" for group, name in chosen.items()]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("options")


@pytest.fixture(scope="module")
def supplies(place):
    """The words that a choice of corpus or encoder needs; what they point to is written once."""
    known = {"synthetic": ["data.utterances=40"], "synthetic_features": ["data.scale=0.01", "data.dim=32"]}

    def words(data, features):
        if data == "combined":
            roots = [word.replace("data.", f"data.{part}.") for part in PARTS for word in words(part, "logmel")]
            known[data] = roots
        if data not in known:
            key = "manifest" if data == "manifest" else "root"
            write = getattr(fake_corpora, f"write_{data}")
            known[data] = [f"data.{key}={write(place / data, **CORPORA.get(data, {}))}"]
        if features not in known:
            start = next((name for name in ENCODERS if features.startswith(name)), None)
            made = ENCODERS[start](place / features) if start else None
            known[features] = [f"features.checkpoint={made}"] if made else []
        if features == "files":
            return known[data] + [f"features.root={frames_for(data, known[data])}", "features.frame_rate=50"]
        return known[data] + known[features]

    def frames_for(data, overrides):
        root = place / f"frames-{data}"
        cfg = compose_config([f"data={data}", *overrides, f"paths.outputs={place}"])
        for utterance in instantiate(cfg, "data").utterances:
            path = root / f"{utterance.id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.random.default_rng(zlib.crc32(utterance.id.encode())).random((6, 5)))
        return root

    return words


@pytest.fixture
def make(place, tmp_path, supplies):
    """Compose as Hydra would for a run in ``tmp_path/run``, adding what the chosen corpus and encoder need."""

    def make(*words, bare=False):
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        paths = [f"paths.{name}={place / name}" for name in ("outputs", "data", "cache")]
        sizes = [word for word in words if word.startswith("model.hidden_size")]  # some networks have none
        register_resolvers()
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            overrides = [*(word for word in words if word not in sizes), *paths, f"paths.run={folder}"]
            page = compose("train", overrides=overrides, return_hydra_config=True)
        needed = [] if bare else supplies(page.hydra.runtime.choices.data, page.hydra.runtime.choices.features)
        needed = [*needed, *(sizes if "hidden_size" in page.model else [])]
        HydraConfig.instance().set_config(page)
        cfg = page.copy()
        OmegaConf.set_struct(cfg, False)
        del cfg.hydra
        OmegaConf.set_struct(cfg, True)
        return OmegaConf.merge(cfg, OmegaConf.from_dotlist(needed))

    return make


def check_run(folder, epochs=1):
    """The run folder holds a finished run whose figures are those of its table."""
    metrics = json.loads((folder / "metrics.json").read_text())
    table = pd.read_csv(folder / "predictions.csv", dtype={"speaker": str}, keep_default_na=False)
    split = json.loads((folder / "split.json").read_text())
    assert table["id"].tolist() == split["parts"]["test"]["ids"]
    expected = scores(table)
    for name in ("wa", "uar", "macro_f1", "weighted_f1"):
        assert metrics["test"][name] == pytest.approx(expected[name], abs=1e-9)
    assert metrics["test"]["confusion"] == expected["confusion"]
    assert metrics["epochs"] == epochs
    return metrics


@pytest.mark.parametrize("number", range(RUNS), ids=lambda number: " ".join(words_of_run(number)[:5]))
def test_every_option_trains(make, tmp_path, number):
    words = words_of_run(number)
    if "adversarial=erasure_after" in words:  # wants one linear layer, and a run that keeps its last epoch
        words = [word for word in words if not word.startswith(("model=", "lr_schedule="))]
        words += ["experiment=adversary/erasure_after"]
    training.run(make(*words, *SMALL))
    if "protocol=everyone" in words:  # nobody is left to test
        assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
        return
    check_run(tmp_path / "run", epochs=0 if "model=statistics_logistic" in words else 1)


@pytest.mark.parametrize("words", [
    *(["model=gru", f"model/attention={name}"] for name in options("model/attention")),
    *([f"model={model}", f"model/pooling={name}"] for name in options("model/pooling")
      for model in ("enhanced_gru", "bottleneck_gru")),
], ids=" ".join)  # fmt: skip
def test_every_part_of_a_network_trains(make, tmp_path, words):
    training.run(make(*words, *SMALL, *SHORT))
    check_run(tmp_path / "run")


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_trains(make, tmp_path, name):
    cfg = make(f"experiment={name}", *SMALL)
    assert 0 <= training.run(cfg) <= 1
    if cfg.test:
        check_run(tmp_path / "run", epochs=0 if name.startswith("statistics_logistic") else 1)
    else:  # a search never opens the test part
        assert not (tmp_path / "run" / "predictions.csv").exists()


def test_all_loggers_together(make, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    training.run(make(*SMALL, *SHORT, f"logger=[{','.join(options('logger'))}]"))
    folder = tmp_path / "run"
    assert "val/uar" in pd.read_csv(folder / "csv" / "metrics.csv")
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))
    assert list(folder.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("name", options("trainer"))
def test_every_trainer_is_built(make, name):
    devices = ["trainer.accelerator=cpu"] if name != "cpu" else []
    trainer = training.build_trainer(make(f"trainer={name}", *devices, "logger=none"), 1)
    assert trainer.max_epochs == 40
    assert trainer.num_devices == (2 if name == "ddp" else 1)


@pytest.mark.parametrize(("limits", "batches", "epochs"), [
    ({"max_epochs": 3, "min_epochs": 5, "min_steps": 99}, 5, 3),  # what is typed holds
    ({"max_epochs": "null", "min_epochs": 3}, 5, 3),
    ({"max_epochs": "null", "min_epochs": 3, "min_steps": 12}, 5, 3),
    ({"max_epochs": "null", "min_epochs": 3, "min_steps": 21}, 5, 5),
    ({"max_epochs": "null", "min_steps": 21, "accumulate_grad_batches": 2}, 6, 7),
])  # fmt: skip
def test_a_small_corpus_gets_the_fewest_steps(make, limits, batches, epochs):
    words = [f"trainer.{key}={value}" for key, value in limits.items()]
    assert training.build_trainer(make(*words, "logger=none"), batches).max_epochs == epochs


def test_schedules_end_with_the_epochs_that_the_steps_ask_for(make, tmp_path):
    steps = ["trainer.max_epochs=null", "trainer.min_steps=3", "+trainer.limit_train_batches=1.0"]
    words = [word for word in SMALL if not word.startswith(("trainer", "+trainer"))]
    training.run(make(*words, *SHORT, *steps, "batches.batch_size=400", "batches.max_frames=100000",
                      "lr_schedule=cosine_once", "callbacks.early_stopping=null", "logger=none"))  # fmt: skip
    rates = pd.read_csv(tmp_path / "run" / "history.csv")["learning_rate"]
    assert len(rates) == 3 and rates.iloc[-1] < 0.5 * rates.iloc[0]


@pytest.mark.parametrize("words", [
    *([f"adversarial={name}"] for name in options("adversarial") if name != "erasure_after"),
    *([f"model={name}"] for name in options("model")),
    *([f"augmentation={name}"] for name in options("augmentation")),
    *([f"normalization={name}"] for name in options("normalization")),
    ["experiment=adversary/erasure_after"], ["loss=focal"],
], ids=" ".join)  # fmt: skip
def test_mixed_precision_trains(make, tmp_path, monkeypatch, words):
    def single(function):  # a GPU has no linear algebra in half precision, where a CPU converts
        def checked(matrix, *others, **settings):
            assert matrix.dtype in (torch.float32, torch.float64), matrix.dtype
            return function(matrix, *others, **settings)

        return checked

    for name in ("cholesky", "solve_triangular", "svd", "pinv", "solve", "eigh", "inv"):
        monkeypatch.setattr(torch.linalg, name, single(getattr(torch.linalg, name)))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    training.run(make("trainer.precision=bf16-mixed", *words, *SMALL, *SHORT))
    check_run(tmp_path / "run", epochs=0 if "model=statistics_logistic" in words else 1)


@pytest.mark.parametrize("words, expected", [
    ([], "enhanced_gru"),
    (["model=gru", "fold=3", "seed=7", "resume=true", "logger=csv", "batches.workers=2"], "gru"),
    (["model=gru", "data=synthetic_features", "features=hubert_base", "features.checkpoint=/a/b"], "gru"),
    (["adversarial_weight=0.01", "augmentation=strong"], "enhanced_gru,adversarial_weight=0.01,augmentation=strong"),
    (["augmentation=strong", "adversarial_weight=0.01"], "enhanced_gru,adversarial_weight=0.01,augmentation=strong"),
    (["variant=mine", "optimizer.lr=0.1"], "mine"),
    (["model=gru", "logger=wandb", "+logger.wandb.offline=true", "trainer.threads=2"], "gru"),
])  # fmt: skip
def test_variant_names_what_changes_a_result(make, words, expected):
    assert make(*words, bare=True).variant == expected


def test_run_folder_follows_the_choices():
    cfg = compose_config(
        ["model=gru", "data=synthetic_features", "fold=2", "seed=5", "name=mine", "l2_reg=1e-5", "paths.outputs=/o"]
    )
    assert cfg.paths.run == "/o/mine/gru,l2_reg=1e-5/fold2/seed5"


def start(*words, cwd, script=(str(ROOT / "train.py"),)):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *script, *words], cwd=cwd, env=environment, timeout=540, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [["--help"], ["data=ravdess", "data.root=nowhere"], ["data=ravdess"], ["data=manifest", "data.manifest=no"]],
)
def test_help_and_a_wrong_folder_are_told_before_torch_loads(tmp_path, words):
    code = f"""
import runpy, sys
sys.argv = ["train.py", *{words}]
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
finally:
    print("loaded:", sorted({{"torch", "lightning", "transformers", "pandas"}} & set(sys.modules)))
"""
    found = start(cwd=tmp_path, script=("-c", code))
    assert "loaded: []" in found.stdout or words[0] == "data=manifest", found.stdout  # which pandas reads
    assert "torch" not in found.stdout.partition("loaded:")[2], found.stdout
    if words == ["--help"]:
        assert found.returncode == 0 and all(group in found.stdout for group in GROUPS), found.stdout
    else:
        assert found.returncode == 1 and "data." in found.stdout, found.stdout


@pytest.mark.parametrize("script", [(str(ROOT / "train.py"),), ("-m", "ser.cli", "train")])
def test_two_processes_share_a_run(manifest, cache, tmp_path, script):
    """Strategy ddp on two CPU processes: each utterance is predicted once, and the figures are those of the table."""
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "data=manifest",
             f"data.manifest={manifest}", f"paths.cache={cache}", "name=shared", "variant=two", "batches.batch_size=5",
             "model=enhanced_gru", *(word for word in SMALL if "limit" not in word), "logger=[csv,tensorboard]",
             "normalization=speaker"]  # fmt: skip
    found = start(*words, "trainer.max_epochs=2", cwd=tmp_path, script=script)
    assert found.returncode == 0, found.stdout
    folder = tmp_path / "outputs" / "shared" / "two" / "fold1" / "seed1"
    check_run(folder, epochs=2)
    history = pd.read_csv(folder / "history.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    best = history.iloc[metrics["best_epoch"]]
    assert best["val/uar"] == pytest.approx(metrics["validation"]["uar"], abs=1e-6)
    assert best["test/uar"] == pytest.approx(metrics["test"]["uar"], abs=1e-6)
    assert "val/uar" in pd.read_csv(folder / "csv" / "metrics.csv")
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("native", "kept"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bf16_stays_in_float32_where_the_cpu_cannot_do_it(make, monkeypatch, caplog, native, kept):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native, "amx_bf16": native})
    trainer = training.build_trainer(make(*SMALL, "trainer.precision=bf16-mixed"), 1)
    assert trainer.precision == kept
    assert ("no bf16 instructions" in caplog.text) is not native


def test_a_small_network_gets_one_thread_and_the_caller_gets_its_threads_back(make, monkeypatch):
    seen = []
    fit = training.fit_by_epochs
    monkeypatch.setattr(training, "fit_by_epochs", lambda *a: (seen.append(torch.get_num_threads()), fit(*a)))
    torch.set_num_threads(3)
    try:
        for setting in ("auto", 2):
            training.run(make("model=gru", *SMALL, f"trainer.threads={setting}", "resume=false"))
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert seen == [1, 2]


@pytest.mark.parametrize("threads", ["0", "1.5", "many"])
def test_other_numbers_of_threads_are_refused_before_a_folder_is_made(make, tmp_path, threads):
    with pytest.raises(SerError, match=r"trainer\.threads"):
        training.run(make("model=gru", *SMALL, f"trainer.threads={threads}"))
    assert not list((tmp_path / "run").rglob("run.json"))


def test_a_large_network_keeps_all_threads():
    settings = OmegaConf.create({"threads": "auto", "accelerator": "cpu"})
    assert training.count_threads(settings, torch.nn.Linear(2_000, 1_500)) is None
    assert training.count_threads(settings, torch.nn.Linear(200, 100)) == 1
