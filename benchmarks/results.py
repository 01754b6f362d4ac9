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
from ser.io import atomic_path

ROOT = Path(__file__).parent.parent
OUTPUTS, PAGE = Path("outputs", "results"), ROOT / "docs" / "results" / "tables.md"
QUIET = ["figures=false", "logger=none", "callbacks.progress_bar=null", "test_each_epoch=false"]
LAYER = "data=ravdess data.root={ravdess} features=whisper_base features.checkpoint={whisper}"
LAYERS = "data=ravdess data.root={ravdess} features=whisper_base_layers features.checkpoint={whisper}"
NETWORKS = "variant=statistics_logistic,recommended,bottleneck_gru,small_gru"
AFTER = "variant=statistics_logistic,recommended,adversary/erasure_after"
HEAD_ANEW = "variant=adversary/erasure_after adversarial.strength=0.03"
REMOVALS = "variant=" + ",".join(
    f"adversary/{name}"
    for name in (
        *("erasure_after", "erasure", "mixstyle", "erasure_mixstyle", "reversal", "fast_head"),
        *("critics", "confusion", "flat", "independence"),
    )
)


@dataclass(frozen=True)
class Part:
    """A section of the page: sweeps of one corpus and one kind of frames, against ``recommended``."""

    title: str
    data: str  # overrides that all of its sweeps have
    sweeps: tuple[str, ...]  # overrides of each
    enrol: bool = False


PARTS = {
    "synthetic": Part("Synthetic corpus, log-mel", "data=synthetic features=logmel", (NETWORKS, AFTER, HEAD_ANEW)),
    "synthetic_features": Part(
        "Synthetic frames", "data=synthetic_features data.scale=0.1 data.dim=64", (AFTER, HEAD_ANEW)
    ),
    "ravdess_layers": Part(
        "RAVDESS, Whisper base, layers 2 to 4",
        LAYERS,
        (AFTER, REMOVALS, "variant=recommended model.hidden_size=16,8"),
    ),
    "ravdess_speaker": Part(
        "The same, each speaker's own statistics (transductive)",
        f"{LAYERS} normalization=speaker",
        (AFTER,),
        enrol=True,
    ),
    "ravdess_layer3": Part("RAVDESS, Whisper base, layer 3", LAYER, (NETWORKS,)),
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
    parser.add_argument("--seeds", default="1,2,3", help="default: %(default)s")
    options = parser.parse_args()
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    failed = False
    for name in options.parts or PARTS:
        part, places = PARTS[name], {"ravdess": options.ravdess, "whisper": options.whisper}
        for sweep in part.sweeps:
            arguments = [*overrides(part, sweep).format(**places).split(" "), f"seed={options.seeds}", *QUIET]
            failed |= run("sweep.py", *arguments, f"name={name}", f"paths.outputs={OUTPUTS}")
        if part.enrol:
            failed |= run("-m", "ser.cli", "enrol", *map(str, (OUTPUTS / name).glob("recommended,*")), "--draws", "3")
        write_page()
    return int(failed)


def overrides(part: Part, sweep: str) -> str:
    """What is typed behind ``ser sweep``, with ``{ravdess}`` and ``{whisper}`` for the two folders."""
    return f"{sweep} {part.data} baseline=recommended"


def run(*arguments: str) -> bool:
    """Whether ``python arguments`` failed; its lines go to the screen."""
    print(f"\n$ python {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode != 0


def write_page() -> None:
    """Make the page of the summaries that are there."""
    page = [
        "# Every table, as `make results` wrote it",
        "",
        f"Commit {commit()}, {machine()}.",
        "`recommended` is what the others are compared with; intervals and tests are explained below each table.",
        "[Recognition](recognition.md) and [Speaker removal](removal.md) say what they mean.",
        "",
        "```bash",
        "make results RAVDESS=/path/to/RAVDESS WHISPER=/path/to/whisper-base",
        "```",
    ]
    for name, part in PARTS.items():
        folder = ROOT / OUTPUTS / name
        if not (folder / "summary.md").is_file():
            continue
        commands = [f"ser sweep {overrides(part, sweep)} seed=1,2,3" for sweep in part.sweeps]
        shown = [line.format(ravdess="RAVDESS", whisper="WHISPER") for line in commands]
        page += ["", f"## {part.title}", "", "```bash", *shown, "```", "", spent(folder), ""]
        for line in (folder / "summary.md").read_text(encoding="utf-8").splitlines()[2:]:
            page.append(f"#{line}" if line.startswith("#") else line)
        for table in sorted(folder.glob("*/enrolment.csv")):
            page += [
                "",
                "### Enrolment: UAR with the statistics of k utterances of a new speaker",
                "",
                *enrolment(table),
            ]
    with atomic_path(PAGE) as temporary:
        temporary.write_text("\n".join(page) + "\n", encoding="utf-8")


def spent(folder: Path) -> str:
    """Runs and the time they took."""
    metrics = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*/fold*/seed*/metrics.json")]
    minutes = sum(run["seconds"] for run in metrics) / 60
    return f"{len(metrics)} runs in {minutes:.0f} minutes (training, test and probes)."


def enrolment(path: Path) -> list[str]:
    """Lines of the table that ``ser enrol`` wrote, in percent."""
    rows = ["| k | UAR (%) | 95% |", "| --- | --- | --- |"]
    for row in pd.read_csv(path, dtype={"k": str}).itertuples():
        rows.append(f"| {row.k} | {100 * row.uar:.1f} | {100 * row.low:.1f} to {100 * row.high:.1f} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
