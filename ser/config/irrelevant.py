"""Settings that change no result: they are neither in the identity of a run nor in the name of its folder."""

from fnmatch import fnmatch

IRRELEVANT = {  # settings that two runs of one identity may differ in, and why
    "paths.*": "where files lie; their content is compared",
    "data.root": "where the corpus lies; labels and audio are compared",
    "data.manifest": "where the table lies; labels and audio are compared",
    "data.*.root": "where a corpus lies; labels and audio are compared",
    "data.*.manifest": "where a table lies; labels and audio are compared",
    "features.root": "where frames lie; their content is compared",
    "features.checkpoint": "where the encoder lies; its weights are compared",
    "experiment": "the settings it stands for are compared",
    "name": "names the folder",
    "variant": "names the folder",
    "logger*": "loggers only watch",
    "callbacks.progress_bar*": "only shown on screen",
    "callbacks.history.confusion": "loggers only watch",
    "callbacks.*.dirpath": "the run folder",
    "callbacks.*.folder": "the run folder",
    "test_each_epoch": "recorded, never used",
    "allow_duplicates": "refuses or not; labels and audio are compared",
    "figures": "drawn from the finished tables",
    "leakage": "computed from the finished tables",
    "test": "whether the test part is opened after training, once",
    "epochs_from": "where the sweep lies; the epochs it found are compared",
    "search_folds": "each fold is a run of its own",
    "resume": "a resumed run ends like an uninterrupted one",
    "extraction.device": "where the encoder computes",
    "extraction.workers": "how fast audio is decoded",
    "extraction.processes": "how many processes share the same work",
    "extraction.batch_seconds": "batch mates do not change an utterance's frames",
    "extraction.trust_cache": "refuses or not; the number of unchecked utterances is compared",
    "batches.workers": "how fast batches are read",
    "trainer.accelerator": "where the network computes",
    "trainer.devices": "which devices; their number is compared as processes",
    "trainer.threads": "how fast it computes; sums may differ in their last digits, as on another device",
    "trainer.num_nodes": "compared as processes",
    "trainer.log_every_n_steps": "loggers only watch",
    "trainer.num_sanity_val_steps": "computed before training, kept nowhere",
    "trainer.enable_*": "only shown on screen",
}


def irrelevant(key: str) -> bool:
    """Whether a setting, given by its dotted key, is declared not to change a result."""
    return any(fnmatch(key, pattern) for pattern in IRRELEVANT)
