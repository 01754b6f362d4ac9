"""Every table of the documentation's results, measured again: ``make results RAVDESS=folder WHISPER=folder``.

Each part is one or more ``ser sweep`` commands into one folder of ``outputs/results`` and becomes a section of
``docs/results/tables.md``: its commands, the seconds spent, and the summary that the sweep wrote. Finished runs are
skipped, so the same command goes on where it was interrupted. With names of parts, only those are measured.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.__main__ import commit, machine
from ser.evaluation.report.cells import short_names
from ser.io import atomic_path

ROOT = Path(__file__).parent.parent
OUTPUTS, PAGE = Path("outputs", "results"), ROOT / "docs" / "results" / "tables.md"
QUIET = ["figures=false", "logger=none", "callbacks.progress_bar=null", "test_each_epoch=false"]
WHISPER = "features.checkpoint={whisper} features.window=clip"  # as the pages were measured
LAYER = f"data=ravdess data.root={{ravdess}} features=whisper_base {WHISPER}"
LAYERS = f"data=ravdess data.root={{ravdess}} features=whisper_base_layers {WHISPER}"
SEEDS = "seed=1,2,3"
NOTES = {
    "curve": "Speakers and utterances of the training part. low, high: 95% interval over test speakers.",
    "enrolment": "k: unlabelled utterances of the speaker, never the tested one; all: all others. own run: all of the "
    "speaker's utterances, the tested one included, without shrinkage. low, high: 95% interval over speakers.",
}
AFTER = f"variant=statistics_logistic,recommended,adversary/erasure_after {SEEDS}"
HEAD_ANEW = f"variant=adversary/erasure_after adversarial.strength=0.03 {SEEDS}"
CONFUSION = f"variant=adversary/confusion adversarial_weight=0.2 {SEEDS}"
RECURRENT = "variant=bottleneck_gru,small_gru"
# Settings of the enhanced network under which it learns on 448 utterances.
ENHANCED = (
    "features.average=4 model.hidden_size=32 model.dropout=0.1 batches.batch_size=16 optimizer.lr=1e-3 "
    "lr_schedule=constant lr_schedule.warmup_steps=50 trainer.max_epochs=12 alpha_schedule.start_epoch=3"
)
LADDER = ("global", "nothing", "speaker", "speaker_norm", "reversal", "both")
REMOVALS = (
    "erasure",
    "mixstyle",
    "erasure_mixstyle",
    "reversal",
    "fast_head",
    "critics",
    "flat",
    "independence",
)


@dataclass(frozen=True)
class Part:
    """A section of the page: sweeps of one corpus and one kind of frames, against one variant."""

    title: str
    data: str  # overrides that all of its sweeps have
    sweeps: tuple[str, ...]  # overrides of each
    then: str = ""  # a further command of ser, whose table is shown, too
    baseline: str = "recommended"


PARTS = {
    "synthetic": Part(
        "Synthetic corpus, log-mel",
        "data=synthetic features=logmel",
        (AFTER, HEAD_ANEW, CONFUSION, f"{RECURRENT} {SEEDS}"),
    ),
    "synthetic_features": Part(
        "Synthetic frames", "data=synthetic_features data.scale=0.1 data.dim=64", (AFTER, HEAD_ANEW)
    ),
    "ravdess_layers": Part(
        "RAVDESS, Whisper base, layers 2 to 4",
        LAYERS,
        (
            AFTER,
            f"variant={','.join(f'adversary/{name}' for name in REMOVALS)} {SEEDS}",
            f"variant=adversary/independence adversarial_weight=5,25 {SEEDS}",
            f"variant=adversary/confusion adversarial_weight=0.1,0.3,1 {SEEDS}",
            CONFUSION,
            f"{CONFUSION} model.hidden_size=8",
            f"variant=recommended model.hidden_size=16,8 {SEEDS}",
        ),
    ),
    "ravdess_speaker": Part(
        "The same, each speaker's own statistics (transductive)",
        f"{LAYERS} normalization=speaker",
        (AFTER,),
        "enrol outputs/results/ravdess_speaker/recommended,normalization=speaker --draws 3",
    ),
    "ravdess_layer3": Part(
        "RAVDESS, Whisper base, layer 3",
        LAYER,
        (f"variant=statistics_logistic,recommended {SEEDS}", f"{RECURRENT} {SEEDS}"),
    ),
    "ravdess_curve": Part(
        "Learning curve, layers 2 to 4",
        f"{LAYERS} leakage=false",
        (f"variant=statistics_logistic,recommended,small_gru train_speakers=2,4,8,12,16 {SEEDS}",),
        "curve outputs/results/ravdess_curve",
    ),
    "ravdess_eight_curve": Part(
        "Learning curve, all eight emotions",
        f"{LAYERS} data.emotions=[neutral,calm,happy,sad,angry,fearful,disgust,surprised] leakage=false",
        (
            f"variant=statistics_logistic,recommended train_speakers=4,8,16 {SEEDS}",
            "variant=small_gru train_speakers=4,8,16 seed=1",  # two minutes per run
        ),
        "curve outputs/results/ravdess_eight_curve",
    ),
    "ravdess_ladder": Part(
        "Speaker ladder of the enhanced network, layer 3",
        f"{LAYER} {ENHANCED}",
        (f"variant={','.join(f'ladder/{rung}' for rung in LADDER)},gru {SEEDS}",),
        baseline="ladder/global",
    ),
}


def main() -> int:
    """Measure the parts in turn, writing the page after each.

    Returns:
        1 if a sweep failed, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"which: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--ravdess", required=True, help="folder of RAVDESS")
    parser.add_argument("--whisper", default="openai/whisper-base", help="Whisper base: folder or Hub name")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    failed, at = False, commit()
    for name in options.parts or PARTS:
        part, places = PARTS[name], {"ravdess": options.ravdess, "whisper": options.whisper}
        for sweep in part.sweeps:
            arguments = [word.format(**places) for word in overrides(part, sweep).split(" ")]
            failed |= run("sweep.py", *arguments, *QUIET, f"name={name}", f"paths.outputs={OUTPUTS}")
        if part.then:
            failed |= run("-m", "ser.cli", *part.then.split(" "))
        note = ROOT / OUTPUTS / name / "commit.txt"
        earlier = note.read_text(encoding="utf-8").split(", ") if note.is_file() else []
        note.write_text(", ".join(dict.fromkeys([*earlier, at])), encoding="utf-8")
        write_page()
    return int(failed)


def overrides(part: Part, sweep: str) -> str:
    """What is typed behind ``ser sweep``, with ``{ravdess}`` and ``{whisper}`` for the two folders."""
    return f"{sweep} {part.data} baseline={part.baseline}"


def run(*arguments: str) -> bool:
    """Whether ``python arguments`` failed; its lines go to the screen."""
    print(f"\n$ python {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode != 0


def write_page() -> None:
    """Make the page of what has been measured here; a part that has not keeps the section that it had."""
    earlier = dict(piece.split("\n", 1) for piece in f"\n{PAGE.read_text(encoding='utf-8')}".split("\n## ")[1:])
    page = [
        "# Every table, as `make results` wrote it",
        "",
        f"{machine()}.",
        "Others are compared with the `baseline=` of the command; below each table stands what its columns are.",
        "[Recognition](recognition.md) and [Speaker](speaker.md) say what they mean. Frames of RAVDESS are those of",
        "`features.window=clip`, the default until commit 853a87b.",
        "",
        "```bash",
        "make results RAVDESS=/path/to/RAVDESS WHISPER=/path/to/whisper-base",
        "```",
    ]
    for name, part in PARTS.items():
        if (ROOT / OUTPUTS / name / "commit.txt").is_file():
            page += ["", f"## {part.title}", "", *section(part, ROOT / OUTPUTS / name)]
        elif part.title in earlier:
            page += ["", f"## {part.title}", *earlier[part.title].rstrip("\n").split("\n")]
    with atomic_path(PAGE) as temporary:
        temporary.write_text("\n".join(page) + "\n", encoding="utf-8")


def section(part: Part, folder: Path) -> list[str]:
    """Lines about one part: commands, time spent, tables."""
    commands = [f"ser sweep {overrides(part, sweep)} name={folder.name}" for sweep in part.sweeps]
    lines = ["```bash", *(line.format(ravdess="RAVDESS", whisper="WHISPER") for line in commands)]
    lines += [f"ser {part.then}"] * bool(part.then)
    metrics = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/fold*/seed*/metrics.json")]
    minutes = sum(run["seconds"] for run in metrics) / 60
    at = (folder / "commit.txt").read_text(encoding="utf-8").strip()
    lines += [
        "```",
        "",
        f"Commit{'s' * (', ' in at)} {at}; {len(metrics)} runs in {minutes:.0f} minutes, test and probes included.",
    ]
    points = folder / "curve.csv"
    if not points.is_file():
        summary = (folder / "summary.md").read_text(encoding="utf-8").partition("\n## Notes")[0].splitlines()[2:]
        lines += ["", *(f"#{line}" if line.startswith("#") else line for line in summary)]
    for table in (points, *folder.glob("*/enrolment.csv")):
        if table.is_file():
            lines += ["", f"### {table.stem.capitalize()}", "", *rows_of(table), "", NOTES[table.stem]]
    return lines


def rows_of(path: Path) -> list[str]:
    """Markdown of a table of UAR with its interval (``uar, low, high``), in percent."""
    table = pd.read_csv(path, dtype={"k": str}).convert_dtypes()  # whole numbers as such
    table = table.select_dtypes(exclude="boolean")  # without the marks of transductive runs and the like
    if "variant" in table:
        table["variant"] = table["variant"].map(short_names(table["variant"].unique())[0])
    table[["uar", "low", "high"]] *= 100
    table = table.rename(columns={"uar": "UAR (%)"})
    cells = [
        [f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in table.to_numpy(object)
    ]
    return [f"| {' | '.join(row)} |" for row in [list(table.columns), ["---"] * table.shape[1], *cells]]


if __name__ == "__main__":
    sys.exit(main())
