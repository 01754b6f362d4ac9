"""The models that the page offers, each loaded when it is first chosen."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.demo.drawing import Look
from ser.errors import SerError
from ser.evaluation.runs import Run, load_run
from ser.evaluation.significance import Interval, bootstrap_interval
from ser.inference.checkpoint import find_model
from ser.inference.recognizer import Recognizer


@dataclass(frozen=True)
class Results:
    """What a finished run says of its model.

    Attributes:
        run: the run folder.
        uar: unweighted average recall of the test part with its interval over speakers.
        wa: accuracy of the test part.
        speakers: in the test part.
    """

    run: Run
    uar: Interval
    wa: float
    speakers: int


@dataclass(frozen=True)
class Model:
    """A loaded model.

    Attributes:
        name: as the page lists it.
        path: the file or folder it came from.
        recognizer: it at work.
        look: how its emotions are shown.
        results: of its run; None for a model without a run folder.
    """

    name: str
    path: Path
    recognizer: Recognizer
    look: Look
    results: Results | None

    @property
    def parameters(self) -> int | None:
        """Weights of the network; None for an exported one."""
        network: Any = getattr(self.recognizer.model, "network", None)
        return None if network is None else sum(weight.numel() for weight in network.parameters())


class ModelShelf:
    """Models by name; a model that cannot be loaded raises when it is asked for, and again the next time.

    Args:
        paths: what Recognizer.from_checkpoint takes.
        encoder: folder of the pretrained encoder, if not where training had it; for those models that read one.
        device: where they compute.
    """

    def __init__(self, paths: Sequence[str | Path], encoder: str | Path | None = None, device: str = "cpu") -> None:
        self._paths = dict(zip(_names(paths), paths, strict=True))
        self._encoder, self._device = encoder, device
        self._loaded: dict[str, Model] = {}
        self._turn = threading.Lock()

    @property
    def names(self) -> list[str]:
        """In the order given."""
        return list(self._paths)

    @property
    def looks(self) -> dict[str, Look]:
        """How the emotions of each model that was loaded are shown."""
        return {name: model.look for name, model in self._loaded.items()}

    def open(self, name: str) -> Model:
        """The model of that name.

        Raises:
            SerError: there is none, or it cannot be loaded.
        """
        if name not in self._paths:
            raise SerError(
                f"there is no model called {name!r} here, expected one of {', '.join(self.names)}; choose "
                "one from the list."
            )
        with self._turn:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]

    def _load(self, name: str) -> Model:
        path = find_model(self._paths[name])
        recognizer = Recognizer.from_checkpoint(path, self._encoder, self._device)
        return Model(name, path, recognizer, Look(recognizer.emotions), _results(path))


def _results(path: Path) -> Results | None:
    """Results in the run folder around a checkpoint; None where there is none or it is damaged."""
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    if not (folder / "metrics.json").is_file():
        return None
    try:
        run = load_run(folder)
        speakers = int(run.predictions["speaker"].nunique())
        return Results(run, bootstrap_interval(run.predictions), float(run.test["wa"]), speakers)
    except (SerError, KeyError):
        return None


def _names(paths: Sequence[str | Path]) -> list[str]:
    """The last parts of each path, as many as keep them apart and tell experiment, variant, fold and seed."""
    parts = [
        [part for part in Path(path).absolute().parts if part not in ("checkpoints", "best.ckpt", "/")]
        for path in paths
    ]
    for count in range(4, 1 + max(map(len, parts), default=4)):
        names = [" / ".join(row[-count:]) for row in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{place}: {path}" for place, path in enumerate(paths, start=1)]
