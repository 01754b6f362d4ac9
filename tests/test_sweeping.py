import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec

import children
import pytest
import yaml
from fake_corpora import write_manifest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from small_runs import TINY

from ser.cli.progress import seconds_left
from ser.cli.sweep import expand
from ser.cli.train import check_arguments, launch
from ser.config import CONFIG_FOLDER, check_overrides, compose_config, variant_name
from ser.config.page import folder_name
from ser.errors import SerError
from ser.evaluation.report.cells import short_names
from ser.evaluation.report.report import train_commands
from ser.evaluation.runs import find_runs

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
    """Run a script as a user does, in a child or in a ``whole`` process; its exit code and what it shows."""

    def run(script, *words, root, whole=False, without=()):
        environment = {"OMP_NUM_THREADS": "1", "COLUMNS": "300", "TERM": "dumb"}
        flags = [word for word in words if word == "-m"]  # must stand before all others
        shared = [word for word in corpus if word not in without]
        given = [*flags, *shared, f"paths.outputs={root}", *words[len(flags) :]]
        if not whole:
            ended = children.command(root, script, *given, cwd=root, **environment)
            return ended.code, ended.shown
        done = subprocess.run(
            [sys.executable, str(CONFIG_FOLDER.parent / script), *given], env=os.environ | environment, cwd=root,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    return run


def results_of(root):
    """The folder of the corpus; a hash in its name tells manifests of one name apart."""
    (folder,) = root.glob("manifest-*-logmel")
    return folder


@pytest.fixture(scope="module")
def sweep(command, tmp_path_factory):
    """Two variants and two folds, and what the screen showed."""
    root = tmp_path_factory.mktemp("outputs")
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0, shown
    return root, results_of(root), shown


def tables(shown):
    """What the summary says, from its first table on, however long names fold its lines."""
    shown = " ".join(shown.split())
    return shown[shown.index("Mean over runs") : shown.index("folds, so not all of the corpus")]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".ckpt", ".npy")}


@pytest.fixture(autouse=True)
def _models_as_experiments_are_forgotten():
    """A mixed sweep makes its models known to Hydra as experiments, for the rest of its process."""
    yield
    ConfigStore.instance().repo.pop("experiment", None)


@pytest.mark.parametrize("word", ["variant=gru,enhanced_gru", "variant=[gru,enhanced_gru]"])
def test_two_spellings_of_a_list(word):
    variants = "experiment=statistics_logistic,statistics_logistic_speaker,gru,enhanced_gru"
    expected = ["-m", variants, "trainer.max_epochs=3", "seed=1,2", "fold=1,2", "resume=true"]
    assert expand([word, "fold=[1,2]", "seed=1,2", "trainer.max_epochs=3"]) == expected


def test_a_sweep_resumes_unless_told_otherwise():
    """An error message about finished runs of other settings names resume=false as a remedy."""
    assert [word for word in expand(["variant=gru", "fold=1", "resume=false"]) if "resume" in word] == ["resume=false"]


def test_all_folds_are_those_of_the_protocol_and_other_words_stay():
    words = expand(["variant=gru", "adversarial_weight=0,0.05", "data=synthetic_features", "baseline=gru"])
    assert words[:5] == ["-m", "model=gru", "adversarial_weight=0,0.05", "data=synthetic_features", "seed=1"]
    assert words[5:] == ["fold=1,2,3,4,5", "resume=true", "hydra.callbacks.sweep.baseline='gru'"]


def test_models_and_experiments_mix(corpus):
    assert expand(["variant=gru,recommended", "fold=1", "baseline=gru"])[1] == "experiment=gru,recommended"
    assert compose_config(["experiment=gru"]).variant == "gru"


@pytest.mark.parametrize(("words", "added"), [
    (["variant=gru"], ["statistics_logistic", "statistics_logistic_speaker"]),
    (["variant=gru,statistics_logistic", "seed=1,2"], ["statistics_logistic_speaker"]),
    (["variant=gru", "normalization=speaker"], ["statistics_logistic"]),
    (["variant=gru", "baseline=gru"], []),
    (["variant=gru", "model.hidden_size=8"], []),  # not a setting of theirs
    (["variant=gru", "model/attention=dot"], []),
    (["variant=gru", "optimizer.lr=1e-3,1e-4"], []),  # would repeat them
])  # fmt: skip
def test_the_baselines_are_in_every_sweep_that_they_fit(words, added):
    group, _, names = expand([*words, "fold=1"])[1].partition("=")
    assert [name for name in names.split(",") if name in added] == added
    assert len(names.split(",")) == len(added) + len(words[0].split(","))
    if added:
        assert group == "experiment"


def test_the_speaker_ladder_composes():
    assert expand(["variant=" + ",".join(f"ladder/{rung}" for rung in LADDER), "fold=1"])[1].count("ladder/") == 6
    names = [compose_config([f"experiment=ladder/{rung}"]).variant for rung in LADDER]
    assert names == [f"ladder-{rung}" for rung in LADDER]


@pytest.mark.parametrize(
    ("words", "part"),
    [(["variant=grue"], "name models or experiments"), (["fold=1"], "no variant was given"), (["fold"], "key=value"),
     (["recommended"], "write variant=recommended"), (["gru"], "write variant=gru"), (["--seed=1"], "write seed=1, wi"),
     (["variant=gru,recommended", "fold=all", "data=manifest"], "no manifest was given")],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_one_line(words, part):
    with pytest.raises(SerError, match=part) as error:
        expand(words)
    assert "\n" not in str(error.value)


def test_folder_names_tell_experiments_manifests_and_overrides_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [["experiment=recommended"], ["experiment=recommended", "model=gru"], ["model=gru"], ["l2_reg=1e-5"]]
    variants = [compose_config(given).variant for given in words]
    assert variants == ["recommended", "recommended,model=gru", "gru", "enhanced_gru,l2_reg=1e-5"]
    manifests = ["a.csv", "b.csv", "/x/a.csv", "/y/a.csv"]
    names = [compose_config(["data=manifest", f"data.manifest={manifest}"]).name for manifest in manifests]
    assert names[:2] == ["a-logmel", "b-logmel"]  # of the working folder
    assert len(set(names)) == 4 and all(re.fullmatch("a-[0-9a-f]{6}-logmel", name) for name in names[2:])


def test_a_long_name_is_cut_to_a_hash_of_all_of_it():
    one, other = (compose_config([f"variant={'x' * 299}{end}"]).paths.run for end in "yz")
    assert one != other
    assert all(len(part) < 130 for part in one.split("/"))
    long = variant_name("gru", None, ",".join(f"model.setting{number}=12345" for number in range(12)))
    assert folder_name(long).startswith("gru,model.setting0=12345")
    assert folder_name('gru,data.columns={emotion:"Gefühl"}') == "gru,data.columns=emotion:Gefühl"  # typed as it is
    assert folder_name("..") == "-" and folder_name("a/b\n") == "a-b-"
    assert (
        folder_name("gru,data.map={joy:happy,fear:sad}") == "gru,data.map=joy:happy,fear:sad"
    )  # a shell expands braces


def test_usage_is_shown_without_arguments(command, tmp_path):
    for words in ([], ["-h"], ["--help"]):
        done = subprocess.run([sys.executable, str(CONFIG_FOLDER.parent / "sweep.py"), *words], capture_output=True,
                              text=True, check=False, cwd=tmp_path)  # fmt: skip
        assert done.returncode == 0
        assert done.stdout.startswith("usage: ser sweep variant=")
        assert max(map(len, done.stdout.splitlines())) <= 80
    assert not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_ends_the_help_without_a_traceback(tmp_path):
    for script in ("train.py", "sweep.py"):
        line = f"{sys.executable} {CONFIG_FOLDER.parent / script} --help | head -n 1"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert not done.stderr, done.stderr


def test_names_on_screen_lose_what_all_share():
    names = ["gru,a=1,b=[1,2],c=3", "gru,a=2,b=[1,2],c=3"]
    short, shared = short_names(names)
    assert list(short.values()) == ["gru, a=1", "gru, a=2"]
    assert shared == ["b=[1,2]", "c=3"]


def test_long_values_are_cut_in_names_unless_two_would_be_the_same():
    long = "data.emodb.map={bored:neutral,disgust:angry,fearful:sad}"
    short, _ = short_names(["gru", f"gru,{long}"])
    assert short[f"gru,{long}"] == "gru, data.emodb.map={bored:neutral,disgust:…"
    other = long.replace("sad", "happy")
    short, _ = short_names([f"gru,{long}", f"gru,{other}"])
    assert list(short.values()) == [f"gru, {long}", f"gru, {other}"]


def test_a_sweep_leaves_runs_and_one_summary(sweep):
    _, folder, shown = sweep
    assert len(list(folder.glob("*/fold*/seed1/metrics.json"))) == 4
    content = json.loads((folder / "summary.json").read_text())
    assert [row["variant"].split(",")[0] for row in content["variants"]] == ["gru", "enhanced_gru"]
    assert all((folder / f"summary.{kind}").is_file() for kind in ("csv", "md"))
    for number, run in enumerate(["gru fold 1", "gru fold 2", "enhanced_gru fold 1", "enhanced_gru fold 2"], 1):
        assert re.search(rf"{number} of 4: {run} seed 1: UAR \d+\.\d% \(\d+ s\)", shown)
    assert re.search("about .* left", shown)
    assert not list(folder.parent.glob(".sweep.*"))
    before = shown[: shown.index("Mean over runs")].strip().splitlines()
    warnings = [line for line in before if line.startswith("warning: ")]
    assert len(before) == 5 + len(set(warnings))  # one that several runs have is shown once
    for run in folder.glob("*/fold*/seed1"):
        written = (run / "train.log").read_text()
        assert all(part in written for part in ("corpus manifest", "Parts", "Network", "epoch 0", "results lie in"))


def test_the_second_call_only_prints(sweep, command):
    root, folder, first = sweep
    before = times(folder)
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0
    assert tables(shown) == tables(first)
    assert shown.count("finished already") == 4
    assert times(folder) == before


def test_finished_runs_of_other_settings_are_not_passed_off(sweep, command):
    root, folder, _ = sweep
    found = next(folder.glob("gru,*"))
    found.rename(folder / "mine")
    words = ["variant=gru", "fold=1", "paths.run=${paths.outputs}/" + folder.name + "/mine/fold${fold}/seed${seed}"]
    try:
        code, shown = command("sweep.py", *words, "trainer.max_epochs=2", root=root)
    finally:
        (folder / "mine").rename(found)
    assert code == 1
    assert "mine/fold1/seed1 holds a finished run of other settings: trainer.max_epochs = 1, now 2" in shown


def test_a_deterministic_network_runs_with_the_first_seed_only(command, tmp_path):
    words = ["variant=statistics_logistic,gru", "baseline=statistics_logistic", "seed=2,1", "fold=[1,2]"]
    code, shown = command("sweep.py", *words, root=tmp_path, without=["model.hidden_size=8"])
    assert code == 0, shown
    assert "statistics_logistic run with seed 2 only" in shown and "6 of 6: " in shown and "left" in shown
    found = sorted((run.parts[-4].partition(",")[0], *run.parts[-3:-1]) for run in tmp_path.rglob("metrics.json"))
    fitted = [("statistics_logistic", f"fold{fold}", "seed2") for fold in (1, 2)]
    assert found == [*[("gru", f"fold{fold}", f"seed{seed}") for fold in (1, 2) for seed in (1, 2)], *fitted]
    assert "Deterministic, so that one seed is enough: statistics_logistic" in " ".join(shown.split()), shown
    runs = find_runs(tmp_path)
    (line,) = train_commands(runs)  # the grid, of which a sweep leaves out the same again
    assert "seed=1,2" in line or "seed=2,1" in line
    code, again = command("sweep.py", *words, root=tmp_path, without=["model.hidden_size=8"])
    assert code == 0 and again.count("finished already") == 6
    assert tables(again) == tables(shown)


def test_an_interrupted_run_is_resumed(sweep, command):
    root, folder, _ = sweep
    run = next(folder.glob("gru,*/fold2/seed1"))
    before = (run / "predictions.csv").read_bytes()
    for name in ("metrics.json", "predictions.csv"):
        (run / name).unlink()
    code, shown = command("sweep.py", "variant=gru,enhanced_gru", "fold=[1,2]", root=root)
    assert code == 0
    assert f"going on from {run}" in (run / "train.log").read_text()
    assert shown.count("finished already") == 3
    assert (run / "predictions.csv").read_bytes() == before


def test_an_interrupted_sweep_says_that_the_same_command_goes_on(monkeypatch, caplog):
    def interrupted():
        raise KeyboardInterrupt

    for resume, again in (["resume=true"], "command goes on"), ([], "command with resume=true goes on"):
        monkeypatch.setattr(sys, "argv", ["ser train", "-m", "seed=1,2", *resume])
        with pytest.raises(SystemExit) as ended:
            launch(interrupted)
        assert ended.value.code == 130 and again in caplog.messages[-1]


def test_a_point_given_twice_runs_once(sweep, command):
    root, _, _ = sweep
    code, shown = command("sweep.py", "variant=gru", "fold=1,1,2", "seed=1,1", root=root)
    assert code == 0, shown
    assert "fold=1,1,2 names a point twice; it runs once: fold=1,2" in shown
    assert "2 of 2: gru fold 2 seed 1" in shown
    content = json.loads((results_of(root) / "summary.json").read_text())  # also of the runs of earlier sweeps
    assert [row["variant"].split(",")[0] for row in content["variants"]] == ["gru", "enhanced_gru"]
    assert "2 of 4 runs are of earlier sweeps" in shown and content["command"] == ""


@pytest.mark.parametrize("words", [["optimizer.weight_decay=0,0.1"], ["fold=1,2", "model=gru,bottleneck_gru"]])
def test_runs_of_one_sweep_do_not_replace_each_other(command, tmp_path, words):
    code, shown = command("train.py", "-m", *words, "variant=mine", root=tmp_path)
    assert code == 1 and "all have the variant mine" in shown, shown
    proposed = re.search(r"'(variant=mine-\$\{\S+\})'", shown).group(1)
    assert check_overrides([*words, proposed], several=True) == [*words, proposed]


def test_the_time_left_is_that_of_the_same_variant():
    assert seconds_left({"a": [10.0, 20.0], "b": [100.0]}, {"a": 2, "b": 1}) == 130
    assert seconds_left({"a": [10.0, 20.0]}, {"a": 1, "b": 2}) == 45
    assert seconds_left({"": [4.0]}, {"": 3}) == 12


def test_a_variant_may_be_named_by_a_setting(command, tmp_path):
    words = ["model=gru,enhanced_gru", "fold=1", "variant=mine-${hydra:runtime.choices.model}"]
    code, shown = command("train.py", "-m", *words, root=tmp_path)
    assert code == 0 and "2 of 2: mine-enhanced_gru fold 1 seed 1" in shown, shown
    assert {path.parts[-4] for path in results_of(tmp_path).glob("mine-*/fold1/seed1/metrics.json")} == {
        "mine-gru",
        "mine-enhanced_gru",
    }


@pytest.mark.parametrize(
    "words",
    [
        ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "fold=[1,2]"],
        ["hydra/launcher=submitit_local", "fold=1"],
        pytest.param(
            ["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "fold=[1,2]"],
            marks=pytest.mark.skipif(not find_spec("ray"), reason="make test-ray installs Ray"),
        ),
    ],
    ids=["joblib", "submitit", "ray"],
)
def test_other_launchers_give_the_same_predictions(sweep, command, tmp_path, words):
    _, folder, _ = sweep
    code, shown = command("sweep.py", "variant=gru", *words, root=tmp_path)
    assert code == 0, shown
    for fold in (1, 2) if words[-1] == "fold=[1,2]" else (1,):
        part = f"gru,*/fold{fold}/seed1/predictions.csv"
        one, other = (next(place.glob(part)) for place in (results_of(tmp_path), folder))
        assert one.read_bytes() == other.read_bytes()


def test_a_failed_run_does_not_stop_the_others(command, tmp_path):
    code, shown = command("sweep.py", "variant=enhanced_gru", "model.heads=3,2", "fold=1", root=tmp_path)
    assert code == 1
    folder = results_of(tmp_path)
    (finished,) = folder.rglob("metrics.json")
    assert "model.heads=2" in str(finished)
    assert not list(folder.glob("*model.heads=3*"))  # a refused run leaves no folder
    last = " ".join(shown[shown.rindex("not finished") :].split())
    assert "model.heads=3" in last and "fold1/seed1 (model.heads=3 was given" in last
    assert re.search("1 of 2: .*model.heads=3 fold 1 seed 1: failed: ", shown)
    assert "Traceback" not in shown
    assert (folder / "summary.md").is_file()


def test_multirun_writes_a_folder_per_point_and_ends_with_a_summary(command, tmp_path):
    words = ["model=gru", "adversarial_weight=0,0.1", "fold=1,2", "name=mine", "variant=w${adversarial_weight}"]
    code, shown = command("train.py", "-m", *words, root=tmp_path)
    assert code == 0, shown
    assert "Mean over runs" in shown
    folder = tmp_path / "mine"
    found = {path.parent.relative_to(folder).as_posix(): path for path in folder.rglob("metrics.json")}
    assert set(found) == {f"{variant}/fold{fold}/seed1" for variant in ("w0.0", "w0.1") for fold in (1, 2)}
    for point, path in found.items():
        assert f"fold{json.loads(path.read_text())['fold']}" in point
        weight = json.loads(path.with_name("run.json").read_text())["config"]["adversarial_weight"]
        assert point.startswith(f"w{weight}/")
    content = json.loads((folder / "summary.json").read_text())
    assert [row["variant"] for row in content["variants"]] == ["w0.0", "w0.1"]


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


SEARCH = [
    "hydra/sweeper=optuna",
    "hydra/sweeper/sampler=random",  # of a grid, Optuna's sweeper does not survive a last trial that fails
    "hydra.sweeper.sampler.seed=0",
    "hydra.sweeper.direction=maximize",
    "hydra.sweeper.max_failure_rate=1.0",
    "hydra.sweeper.n_trials=2",
    "search_folds=[1]",
    "test=false",
    "model=enhanced_gru",
]


def test_a_search_without_one_good_trial_ends_in_one_line(command, tmp_path):
    code, shown = command("train.py", "-m", *SEARCH, "model.heads=choice(3,5)", root=tmp_path, whole=True)
    assert code == 1 and "Traceback" not in shown, shown
    assert shown.count("heads=") >= 2 and "the search has no result" in shown
    assert not list(tmp_path.glob(".sweep*"))


def test_one_failed_trial_of_a_search_is_left_out(command, tmp_path):
    code, shown = command("train.py", "-m", *SEARCH, "model.heads=choice(3,2)", root=tmp_path)
    assert code == 1 and "Traceback" not in shown, shown
    assert "1 of 2 runs failed" in shown
    assert yaml.safe_load((tmp_path / "optimization_results.yaml").read_text())["best_params"] == {"model.heads": 2}


def test_outputs_that_are_no_folder_end_a_sweep_in_one_line(command, tmp_path):
    (tmp_path / "file").write_text("")
    code, shown = command("train.py", "-m", "model=gru", "fold=1,2", f"paths.outputs={tmp_path}/file", root=tmp_path)
    assert code == 1 and "Traceback" not in shown
    assert "expected a writable folder" in shown


def test_the_cluster_launcher_composes():
    try:
        compose_config(["hydra/launcher=submitit_slurm"])
    finally:
        GlobalHydra.instance().clear()


def test_multirun_without_overrides_is_one_run_of_the_defaults():
    assert check_overrides([], several=True) == []


SEVERAL = ["trainer=ddp", "trainer.devices=-1", "trainer.devices=[0,1]", "trainer.num_nodes=2"]


@pytest.mark.parametrize("setting", SEVERAL)
def test_only_a_single_run_has_several_devices(setting):
    words = ["model=gru", setting] if "nodes" not in setting else ["model=gru", f"+{setting}"]
    with pytest.raises(SerError, match=r"trainer\.\w+=.* only a single `ser train`"):
        check_overrides([*words, "fold=1,2"], several=True)
    check_overrides(words)
    check_overrides(["trainer=ddp", "trainer.devices=[1]"], several=True)
    check_overrides([*words, "fold=1,2", "hydra/launcher=submitit_slurm"], several=True)


def test_slurm_is_refused_where_it_is_not(monkeypatch):
    words = ["-m", "fold=1,2", "hydra/launcher=submitit_slurm"]
    monkeypatch.setattr("ser.cli.train.which", lambda name: None)
    with pytest.raises(SerError, match="no srun"):
        check_arguments(words)
    monkeypatch.setattr("ser.cli.train.which", lambda name: f"/usr/bin/{name}")
    assert check_arguments(words) == words


def test_what_a_sweep_cannot_do_is_refused_before_the_corpus_is_written(tmp_path):
    with pytest.raises(SerError, match="only a single `ser train`"):
        expand(["variant=recommended", "trainer=ddp", f"data.root={tmp_path}"])
    assert list(tmp_path.iterdir()) == []
