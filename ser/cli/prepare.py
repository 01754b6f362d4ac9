"""Subcommands that make a model: doctor, extract, train and sweep.

Each imports what it needs when it runs, so that ``--help`` is quick.
"""

import sys
from importlib.util import find_spec
from typing import Annotated, Any

from ser.cli.app import PARTLY_FAILED, PREPARE, Overrides, app, command, flag


@command(PREPARE, "ser doctor", "ser doctor data=ravdess data.root=RAVDESS features=whisper_base --deep")
def doctor(
    overrides: Overrides = None,
    deep: Annotated[bool, flag("--deep", "Decode every file, run the encoder, verify every checksum.")] = False,
) -> int:
    """Check installation, corpus, encoder and cache, and say what to do.

    Exit code 1: a problem was found.
    """
    from ser.doctor.experiment import examine  # noqa: PLC0415
    from ser.doctor.machine import show  # noqa: PLC0415

    return show(examine(overrides or [], deep))


@command(PREPARE, "ser extract data=iemocap data.root=IEMOCAP features=hubert_base", "ser extract experiment=iemocap")
def extract(overrides: Overrides = None) -> int:
    """Turn a corpus into cached frames, ahead of training; an interrupted extraction goes on where it stopped.

    Exit code 3: some recordings could not be read.
    """
    from ser.config import compose_config, instantiate  # noqa: PLC0415

    cfg = compose_config(overrides or [])
    corpus = instantiate(cfg, "data")
    from ser.extraction.frames import extract as extract_frames  # noqa: PLC0415  a wrong folder is told without PyTorch
    from ser.extraction.voices import other_voices  # noqa: PLC0415
    from ser.inference.screen import show_failures  # noqa: PLC0415

    encoder = instantiate(cfg, "features")
    if {word.partition("=")[0] for word in overrides or []} & {"fold", "protocol"}:
        instantiate(cfg, "protocol").split(corpus, cfg.fold, cfg.seed)  # refused now, not after hours of extraction
    result = extract_frames(corpus, encoder, cfg.paths.cache, **cfg.extraction)
    for voice in other_voices(encoder, instantiate(cfg, "augmentation").voices, corpus.frame_source is not None):
        extract_frames(corpus, voice, cfg.paths.cache, **cfg.extraction)
    if result.failures:
        show_failures(result.failures, len(corpus.utterances))
    return PARTLY_FAILED if result.failures else 0


_PASSED_ON: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}


@app.command(rich_help_panel=PREPARE, context_settings=_PASSED_ON)
def train(overrides: Overrides = None) -> None:
    """Train and test one fold; with -m several. Settings are KEY=VALUE; --help lists them."""
    import __main__  # noqa: PLC0415
    from ser.cli.train import train as start  # noqa: PLC0415

    sys.argv = ["ser train", *(overrides or [])]  # Hydra reads the arguments of the program
    __main__.__spec__ = find_spec("ser.cli.train")  # as which Lightning starts the other processes of trainer=ddp
    start()


@app.command(rich_help_panel=PREPARE, context_settings=_PASSED_ON)
def sweep(overrides: Overrides = None) -> None:
    """Train variants on all folds with several seeds, then compare them; --help shows how."""
    from ser.cli.sweep import sweep as start  # noqa: PLC0415

    sys.argv = ["ser sweep", *(overrides or [])]
    start()
