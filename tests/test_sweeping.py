import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from fake_corpora import write_manifest
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from small_runs import TINY

from ser.config import CONFIG_FOLDER, register_resolvers
from ser.errors import SerError
from ser.evaluation.report.tables import short_names
from ser.sweep_jobs import list_jobs, read_words, variant_word

SETTINGS = [word for word in TINY if not word.startswith("model=")]
LADDER = ["nothing", "global", "speaker", "speaker_norm", "reversal", "both"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Words that every command needs: a small corpus and one cache for the whole file."""
    folder = tmp_path_factory.mktemp("sweeping")
    manifest = write_manifest(folder, utterances_per_speaker_and_emotion=1, seconds=0.3)
    return ["data=manifest", f"data.manifest={manifest}", f"paths.cache={folder / 'cache'}", *SETTINGS]


@pytest.fixture(scope="module")
def command(corpus):
    """Run a script as a user does; its exit code and what it shows, without line breaks."""

    def run(script, *words, root):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300", "TERM": "dumb"}
        path = str(CONFIG_FOLDER.parent / script)
        flags = [word for word in words if word == "-m"]  # must stand before all others
        given = [*flags, *corpus, f"paths.outputs={root}", *words[len(flags) :]]
        ended = subprocess.run(
            [sys.executable, path, *given], capture_output=True, text=True, env=environment, cwd=root, check=False
        )
        return ended.returncode, ended.stdout + ended.stderr

    return run


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Two variants and two folds, and what the screen showed."""
    root = tmp_path_factory.mktemp("outputs")
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0, shown
    return root, root / "manifest-logmel", shown


@pytest.fixture
def hydra():
    GlobalHydra.instance().clear()
    register_resolvers()
    version.setbase("1.3")
    yield Hydra.create_main_hydra2("train", create_config_search_path(str(CONFIG_FOLDER)))
    GlobalHydra.instance().clear()


def tables(shown):
    """What the summary says, from its first table on."""
    return shown[shown.index("Mean over runs") : shown.index("folds, so not all of the corpus")]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".ckpt", ".npy")}


@pytest.mark.parametrize("word", ["variant=gru,enhanced_gru", "variant=[gru,enhanced_gru]"])
def test_two_spellings_of_a_list(word):
    settings, shared, swept = read_words([word, "fold=[1,2]", "seed=1,2", "trainer.max_epochs=3"])
    assert (settings["variant"], settings["fold"], settings["seed"]) == (["gru", "enhanced_gru"], [1, 2], [1, 2])
    assert (shared, swept) == (["trainer.max_epochs=3"], [])


def test_other_keys_are_swept_and_single_values_hold_for_all():
    settings, shared, swept = read_words(["fold=all", "baseline=gru", "adversarial_weight=0,0.05", "data=ravdess"])
    assert (settings["fold"], settings["baseline"], settings["seed"]) == (["all"], "gru", [1])
    assert swept == [["adversarial_weight=0", "adversarial_weight=0.05"]]
    assert shared == ["data=ravdess"]


def test_every_combination_has_its_own_folder(hydra):
    words = ["variant=gru,enhanced_gru", "fold=1,2", "seed=1,2", "trainer.max_epochs=3,4"]
    jobs = list_jobs(hydra, *read_words(words))
    assert len(jobs) == len({job.folder for job in jobs}) == 16
    assert {job.folder.parents[1].name for job in jobs} == {
        f"{name},trainer.max_epochs={epochs}" for name in ("gru", "enhanced_gru") for epochs in (3, 4)
    }
    assert all("resume=true" in job.overrides for job in jobs)


def test_the_speaker_ladder_composes(hydra):
    words = ["variant=" + ",".join(f"ladder/{rung}" for rung in LADDER), "fold=1", "data=ravdess"]
    jobs = list_jobs(hydra, *read_words(words))
    assert [job.folder.parents[1].name for job in jobs] == [f"ladder-{rung}" for rung in LADDER]


def test_an_unknown_variant_is_one_sentence():
    with pytest.raises(SerError, match="name models or experiments"):
        variant_word("grue")


def test_names_on_screen_lose_what_all_share():
    names = ["gru,a=1,b=[1,2],c=3", "gru,a=2,b=[1,2],c=3"]
    short, shared = short_names(names)
    assert list(short.values()) == ["gru, a=1", "gru, a=2"]
    assert shared == ["b=[1,2]", "c=3"]


def test_a_sweep_leaves_runs_and_one_summary(sweep):
    _, folder, shown = sweep
    assert len(list(folder.glob("*/fold*/seed1/metrics.json"))) == 4
    content = json.loads((folder / "summary.json").read_text())
    assert [row["variant"] for row in content["variants"]] == ["gru", "enhanced_gru"]
    assert all((folder / f"summary.{kind}").is_file() for kind in ("csv", "md"))
    assert "4 of 4 runs ended" in shown


def test_the_second_call_only_prints(sweep, command):
    root, folder, first = sweep
    before = times(folder)
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0
    assert tables(shown) == tables(first)
    assert "4 finished already" in shown
    assert times(folder) == before


def test_finished_runs_of_other_settings_are_not_passed_off(sweep, command):
    root, _, _ = sweep
    code, shown = command("sweep.py", "variant=gru", "fold=1", "trainer.max_epochs=2", root=root)
    assert code == 1
    assert "trained with trainer.max_epochs=1 and this sweep has trainer.max_epochs=2" in shown


def test_an_interrupted_run_is_resumed(sweep, command):
    root, folder, _ = sweep
    run = folder / "gru" / "fold2" / "seed1"
    before = (run / "predictions.csv").read_bytes()
    for name in ("metrics.json", "predictions.csv"):
        (run / name).unlink()
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0
    assert f"going on from {run}" in " ".join(shown.split())
    assert "3 finished already" in shown
    assert (run / "predictions.csv").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "fold=[1,2]"], ["hydra/launcher=submitit_local", "fold=1"]],
)
def test_other_launchers_give_the_same_predictions(sweep, command, tmp_path, words):
    _, folder, _ = sweep
    code, shown = command("sweep.py", "variant=gru", *words, root=tmp_path)
    assert code == 0, shown
    for fold in (1, 2) if words[-1] == "fold=[1,2]" else (1,):
        part = f"gru/fold{fold}/seed1/predictions.csv"
        assert (tmp_path / "manifest-logmel" / part).read_bytes() == (folder / part).read_bytes()


def test_a_failed_run_does_not_stop_the_others(command, tmp_path):
    code, shown = command("sweep.py", "variant=enhanced_gru", "model.heads=3,2", "fold=1", root=tmp_path)
    assert code == 1
    folder = tmp_path / "manifest-logmel"
    assert not (folder / "enhanced_gru,model.heads=3/fold1/seed1/metrics.json").exists()
    assert (folder / "enhanced_gru,model.heads=2/fold1/seed1/metrics.json").is_file()
    last = " ".join(shown[shown.rindex("not finished") :].split())
    assert "model.heads=3/fold1/seed1 (" in last
    assert "heads" in last.partition("(")[2]
    assert "Traceback" not in shown
    assert (folder / "summary.md").is_file()


def test_multirun_ends_with_a_summary(command, tmp_path):
    code, shown = command("train.py", "-m", "model=gru", "adversarial_weight=0,0.1", "fold=1", root=tmp_path)
    assert code == 0, shown
    assert "Mean over runs" in shown
    content = json.loads((tmp_path / "manifest-logmel" / "summary.json").read_text())
    assert ["adversarial_weight=0," in row["variant"] for row in content["variants"]] == [True, False]


def test_a_search_takes_the_mean_of_validation_and_never_sees_the_test_part(command, tmp_path):
    code, shown = command(
        "train.py",
        "-m",
        "experiment=search",
        "model=gru",
        "search_folds=[1,2]",
        "hydra.sweeper.n_trials=2",
        "adversarial_weight=0",
        root=tmp_path,
    )
    assert code == 0, shown
    trials = {}
    for path in (tmp_path / "search-manifest-logmel").glob("*/fold*/seed1/metrics.json"):
        metrics = json.loads(path.read_text())
        assert "test" not in metrics
        assert not (path.parent / "predictions.csv").exists()
        assert not re.search(r"\btest/", (path.parent / "history.csv").read_text())
        trials.setdefault(path.parents[2], []).append(metrics["validation"]["uar"])
    assert len(trials) == 2
    best = yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(max(sum(found) / 2 for found in trials.values()))


def test_the_cluster_launcher_composes(hydra):
    from hydra.types import RunMode

    cfg = hydra.compose_config("train", ["hydra/launcher=submitit_slurm"], run_mode=RunMode.MULTIRUN)
    assert cfg.hydra.launcher._target_.endswith("SlurmLauncher")
