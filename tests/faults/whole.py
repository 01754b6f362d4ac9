"""Whether the files of a folder are what some writer finished, and whether two folders hold the same results."""

import json

import numpy as np
import pandas as pd

from ser.data.cache import FeatureCache
from ser.io import read_checkpoint_file

TIMES = ["seconds", "peak_memory_mb"]  # of history.csv


def assert_whole(folder):
    """Every file under its final name can be read to its end; the number of files looked at."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in found:
        if path.suffix == ".safetensors":
            cache = FeatureCache.of_shards([path])
            assert all(len(cache.read(name)) == length for name, length in cache.lengths.items())
        elif path.suffix == ".ckpt":
            assert {"state_dict", "config"} <= read_checkpoint_file(path).keys()
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npy":
            np.load(path)
        elif path.suffix == ".csv" and "csv" not in path.parent.parts:  # that folder is Lightning's own log
            assert path.read_text().endswith("\n"), path
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
    return len(found)


def results(folder):
    """What a run, a sweep or an extraction is for: content by relative path, without times and typed commands."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name.startswith("."):  # begun and not finished
            continue
        if path.suffix in (".safetensors", ".npy") or path.name in ("summary.csv", "failures.csv", "report.html"):
            found[name] = path.read_bytes()
        elif path.name in ("metrics.json", "leakage.json", "split.json", "summary.json"):
            content = json.loads(path.read_text())
            for key in (
                "seconds",
                "prediction_seconds",
                "command",
                "checkpoint",
            ):  # the last two name folders, or hash them
                content.pop(key, None)
            found[name] = content
        elif path.name == "history.csv":
            found[name] = pd.read_csv(path).drop(columns=TIMES).to_dict("list")
        elif path.name.endswith("predictions.csv"):
            found[name] = path.read_text()
    return found
