"""Data is never code: no reader in the program can run what a file says, and hostile files run nothing."""

import ast
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_config
from omegaconf import OmegaConf

import ser
from ser.data.cache import Shard
from ser.errors import SerError
from ser.evaluation.predictions import read_embeddings
from ser.evaluation.reproduce import repeat
from ser.run_folder import RunFolder

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
    assert len(SOURCES) > 100


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
        lambda: folder.prepare(make_config(), resume=True),
        lambda: read_embeddings(tmp_path / "embeddings.npy", 1),
        lambda: Shard(tmp_path / "session1.safetensors"),
    ]
    for reader in readers:
        with pytest.raises(SerError):
            reader()
    assert not mark.exists()


@pytest.mark.parametrize("place", ["model", "data", "callbacks.checkpoint", "trainer.plugins"])
def test_a_run_folder_from_a_stranger_calls_nothing_of_its_own(tmp_path, place):
    """``ser reproduce`` builds what the folder's configuration names."""
    mark = tmp_path / "executed"
    (tmp_path / ".hydra").mkdir()
    cfg = OmegaConf.create({"fold": 1})
    OmegaConf.update(cfg, place, {"_target_": "os.mkdir", "path": str(mark)}, force_add=True)
    OmegaConf.save(cfg, tmp_path / ".hydra" / "config.yaml")
    OmegaConf.save({"hydra": {"runtime": {"cwd": str(tmp_path)}}}, tmp_path / ".hydra" / "hydra.yaml")
    with pytest.raises(SerError, match=r"would call os\.mkdir"):
        repeat(tmp_path, tmp_path / "again")
    assert not mark.exists()
