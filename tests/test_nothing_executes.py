"""Data is never code: no reader in the program can run what a file says, and hostile files run nothing."""

import ast
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_config
from fake_runs import write_run

import ser
from ser.config.identity import FORMAT, stored_config
from ser.data.cache import Shard
from ser.errors import SerError
from ser.evaluation.predictions import read_embeddings
from ser.evaluation.runs import find_runs
from ser.run.folder import RunFolder
from ser.trained.reproduce import repeat

ROOT = Path(ser.__file__).resolve().parent.parent
SOURCES = [*sorted((ROOT / "ser").rglob("*.py")), ROOT / "train.py", ROOT / "sweep.py"]
FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_NAMES = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_CALLS = {"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "pd.read_pickle", "pandas.read_pickle",
                   "torch.jit.load", "torch.hub.load", "joblib.load"}  # fmt: skip
DEMANDED = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def faults_of(source):
    """What in a module could run code out of a file, by line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            for name in names:
                if name.partition(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, f"imports {name}"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: word.value for word in node.keywords}
        if (isinstance(node.func, ast.Name) and called in FORBIDDEN_NAMES) or called in FORBIDDEN_CALLS:
            yield node.lineno, f"calls {called}"
        if called in DEMANDED:
            word, value = DEMANDED[called]
            if not (isinstance(given.get(word), ast.Constant) and given[word].value is value):
                yield node.lineno, f"{called} without {word}={value}"
        if isinstance(given.get("shell"), ast.Constant) and given["shell"].value is True:
            yield node.lineno, "starts a shell"


def test_no_module_has_a_reader_that_executes():
    found = {(path.name, *fault) for path in SOURCES for fault in faults_of(path.read_text(encoding="utf-8"))}
    assert not found
    assert {ROOT / "ser" / "io.py", ROOT / "ser" / "inference" / "checkpoint.py"} <= set(SOURCES)


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from pickle import loads", "eval('1')", "exec(text)", "torch.load(path)", "np.load(path)",
     "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)", "run(words, shell=True)"],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert list(faults_of(line))


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def plain_pickle(path, hostile):
    path.write_bytes(pickle.dumps(hostile))


def torch_file(path, hostile):
    torch.save({"state_dict": {"weight": hostile}, "config": make_config()}, path)


def old_torch_file(path, hostile):
    torch.save(hostile, path, _use_new_zipfile_serialization=False)


def object_array(path, hostile):
    with path.open("wb") as file:
        np.save(file, np.array([[hostile]], dtype=object), allow_pickle=True)


@pytest.mark.parametrize("write", [plain_pickle, torch_file, old_torch_file, object_array])
def test_hostile_files_are_refused_and_run_nothing(tmp_path, write):
    mark = tmp_path / "executed"
    names = ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "embeddings.npy", "session1.safetensors")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, Hostile(mark))
    folder = RunFolder(tmp_path)
    readers = [
        folder.read_best,
        lambda: folder.choose({}, resume=True, test=True),
        lambda: read_embeddings(tmp_path / "embeddings.npy", 1),
        lambda: Shard(tmp_path / "session1.safetensors"),
    ]
    for reader in readers:
        with pytest.raises(SerError):
            reader()
    assert not mark.exists()


HOSTILE = {
    "mkdir": {"_target_": "os.mkdir", "path": "MARK"},
    "pickle": {"_target_": "pandas.read_pickle", "filepath_or_buffer": "MARK"},
    "joblib in a list": [1, {"deep": [{"_target_": "joblib.load", "filename": "MARK"}]}],
    "resolver": "${oc.create:{_target_:os.mkdir,path:MARK}}",
    "resolver in a list": {"args": ["${oc.decode:'{_target_: os.mkdir, path: MARK}'}"]},
    "resolver in a key": {"${oc.env:HOME}": 1},
    "no text": {"_target_": ["os.mkdir"]},
    "known group": {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": "MARK"}},
}


@pytest.mark.parametrize("place", ["model", "data", "callbacks.checkpoint", "trainer.plugins", "paths.cache"])
@pytest.mark.parametrize("kind", list(HOSTILE))
def test_a_run_folder_from_a_stranger_calls_nothing_of_its_own(tmp_path, place, kind):
    """``ser reproduce`` builds what the folder's run.json names."""
    mark = tmp_path / "executed"
    config = json.loads(json.dumps(HOSTILE[kind]).replace("MARK", str(mark)))
    for key in reversed(place.split(".")):
        config = {key: config}
    record = {"format": FORMAT, "identity": {}, "config": config, "choices": {}, "overrides": [], "folder": "/"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(SerError, match=r"would call|holds the interpolation"):
        repeat(tmp_path, tmp_path / "again")
    assert not mark.exists() and not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["metrics.json", "split.json", "run.json", "leakage.json"])
def test_deeply_nested_json_ends_in_one_line(tmp_path, name):
    run = write_run(tmp_path, "gru", 1, 1)
    (run / name).write_text("[" * 200_000)
    with pytest.raises(SerError, match=f"{name} is not readable JSON"):
        find_runs(tmp_path)


def test_a_run_folder_of_another_version_ends_in_one_line(tmp_path):
    record = {"format": FORMAT, "identity": {}, "config": {"seed": 1}, "choices": {}, "overrides": [], "folder": "/"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(SerError, match="written by another version"):
        repeat(tmp_path, tmp_path / "again")


def test_a_run_folder_from_a_stranger_writes_only_where_it_is_told_to(tmp_path):
    config = {"paths": {"run": "/old"}, "callbacks": {"history": {"folder": "/etc"}}, "logger": {"a": "/etc"}}
    record = {"format": FORMAT, "identity": {}, "config": config, "choices": {}, "overrides": [], "folder": "/"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(SerError, match=r"would write to /etc .callbacks\.history\.folder"):
        stored_config(tmp_path, tmp_path / "again")
    config["callbacks"]["history"]["folder"] = "/old/x"
    (tmp_path / "run.json").write_text(json.dumps(record))
    cfg = stored_config(tmp_path, tmp_path / "again")[0]
    assert cfg.callbacks.history.folder == str(tmp_path / "again/x") and cfg.logger == {}
    for key, section in (("paths.cache", "paths"), ("data.root", "data")):
        elsewhere = {**config, section: {**config.get(section, {}), key.partition(".")[2]: str(tmp_path / "made")}}
        (tmp_path / "run.json").write_text(json.dumps({**record, "config": elsewhere}))
        with pytest.raises(SerError, match=f"would make the folder .*made .{key}"):
            stored_config(tmp_path, tmp_path / "again")
    (tmp_path / "made").mkdir()
    assert stored_config(tmp_path, tmp_path / "again")[0].data.root == str(tmp_path / "made")
