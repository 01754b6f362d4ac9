"""Say what is fit and what is not: ``ser doctor data=ravdess data.root=... features=whisper_base``."""

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from omegaconf import DictConfig
from rich import get_console
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ser.commands.composing import add_overrides, compose_config
from ser.doctor import installation
from ser.doctor.experiment import Experiment
from ser.doctor.findings import Check, Finding, run_checks
from ser.errors import SerError

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The configuration's words, and how thorough to be."""
    add_overrides(parser)
    parser.add_argument("--deep", action="store_true", help="decode every file, run the encoder, verify every checksum")


def run(arguments: argparse.Namespace) -> int:
    """Run all checks; 1 where one found a problem."""
    findings = list(examine(arguments.overrides, arguments.deep))
    console = get_console()
    console.print(_table(findings))
    counts = {status: sum(finding.status == status for finding in findings) for status in _STYLES}
    console.print(f"{counts['ok']} ok, {counts['warning']} warnings, {counts['problem']} problems", highlight=False)
    return int(counts["problem"] > 0)


def examine(overrides: Sequence[str], deep: bool = False) -> Iterator[Finding]:
    """Findings about the installation and about the experiment that ``overrides`` describe."""
    cfg: DictConfig | None = None
    refused: list[Finding] = []
    try:
        cfg = compose_config(overrides)
    except SerError as error:
        refused = [Finding("configuration", "problem", str(error))]
    yield from run_checks(_installation(cfg))
    yield from refused
    if cfg is not None:
        yield from run_checks(Experiment(cfg, deep).checks())
    yield from run_checks([("extras", installation.check_extras)])


def _installation(cfg: DictConfig | None) -> list[tuple[str, Check]]:
    accelerator, device = ("cpu", "cpu") if cfg is None else (cfg.trainer.accelerator, cfg.extraction.device)
    checks: list[tuple[str, Check]] = [
        ("Python", installation.check_python),
        ("packages", installation.check_versions),
        ("imports", installation.check_imports),
        ("audio", installation.check_audio),
        ("resampling", installation.check_resampling),
        ("device", lambda: installation.check_device(str(accelerator), str(device))),
    ]
    if cfg is not None:
        for key, folder in (("paths.outputs", cfg.paths.outputs), ("paths.cache", cfg.paths.cache)):
            checks.append((key, partial(installation.check_folder, key, Path(folder))))
    return checks


def _table(findings: Sequence[Finding]) -> Table:
    """Readable at 80 columns: the remedy stands below what was found."""
    table = Table("check", "", "found", box=SIMPLE_HEAD, padding=(0, 1))
    table.columns[0].no_wrap = True
    table.columns[1].no_wrap = True
    table.columns[2].overflow = "fold"
    for finding in findings:
        text = escape(finding.text)
        if finding.remedy:
            text += f"\n[bold]->[/] {escape(finding.remedy)}"
        style = _STYLES[finding.status]
        table.add_row(finding.check, f"[{style}]{finding.status}[/]", text)
    return table
