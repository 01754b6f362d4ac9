"""Many uploaded files at once: a table in which a bad file is a row with its reason."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ser.demo.models import Model
from ser.demo.recordings import Limits, check_upload, without_folders
from ser.demo.sessions import Session
from ser.demo.texts import text
from ser.errors import SerError
from ser.inference.files import SUFFIXES, predict_files


def recognise(
    session: Session,
    model: Model,
    paths: Sequence[str],
    uploads: Path,
    limits: Limits,
    progress: Callable[[float], None],
) -> None:
    """Recognise uploaded files into ``session.table`` and its history, in the order given.

    Args:
        session: of the visitor.
        model: answers.
        paths: as the browser's request names them; those that are not audio by their name are passed over.
        uploads: folder of uploaded files.
        limits: of each file, and of their number.
        progress: called with the share that is done.

    Raises:
        SerError: there is no audio among them, or there are too many.
    """
    language = session.language
    if not paths:
        raise SerError(text(language, "folder_none"))
    named = [path for path in paths if Path(path).suffix.lower() in SUFFIXES and not Path(path).name.startswith(".")]
    if not named:
        raise SerError(text(language, "folder_no_audio"))
    if len(named) > limits.files:
        raise SerError(text(language, "too_many", count=len(named), most=limits.files))
    reasons: dict[Path, str] = {}
    accepted: list[Path] = []
    for place, name in enumerate(named):
        try:
            accepted.append(check_upload(name, uploads, limits, language))
        except SerError as error:
            reasons[Path(f"{place}/{Path(name).name}")] = str(error)
    done = 0

    def advance(path: Path) -> None:
        nonlocal done
        done += 1
        progress(done / len(accepted))

    found = predict_files(model.recognizer, accepted, progress=advance)
    reasons |= {Path(path): without_folders(reason, Path(path)) for path, reason in found.failures.items()}
    for row in found.table.to_dict(orient="records"):
        path = Path(str(row["file"]))
        shares = {name: float(row[f"p_{name}"]) for name in model.recognizer.emotions}
        session.history.add("folder", path.name, float(row["seconds"]), shares, model.name, session.keep(path))
    table = found.table.assign(file=[Path(path).name for path in found.table["file"]], reason=None)
    failed = pd.DataFrame({"file": [path.name for path in reasons], "reason": list(reasons.values())})
    session.table_model = model.name
    session.table = (
        (pd.concat([table, failed], ignore_index=True) if len(table) else failed.reindex(columns=table.columns))
        if len(failed)
        else table
    )
