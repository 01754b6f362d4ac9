"""200 mutated inputs through the real commands: no traceback, no hang, bounded memory, one sentence, an exit code."""

import json
import random
import signal
import sys
import traceback

import numpy as np
import pytest
import soundfile
import torch
from checkpoints import make_config, save_checkpoint
from children import TINY, command, isolated, run_words
from fake_corpora import write_iemocap, write_manifest, write_voice
from fake_runs import fake_table
from hydra.core.global_hydra import GlobalHydra
from mutations import bytes_mutated, overrides_mutated, table_mutated, tree_mutated

SECONDS = 60  # for one input, on a busy machine
MEMORY_MB = 1500  # of address space beyond what the program starts with
FORMATS = {"wav": "PCM_16", "flac": "PCM_16", "mp3": None}
KEYS = ["fold", "seed", "adversarial_weight", "augmentation.mixup_alpha", "l2_reg", "batches.batch_size",
        "batches.max_frames",
        "batches.max_seconds", "model.hidden_size", "model.dropout", "model.heads", "optimizer.lr", "data.emotions",
        "protocol", "model", "loss", "lr_schedule.warmup_steps", "alpha_schedule.max_alpha", "trainer.precision",
        "trainer.gradient_clip_val", "callbacks", "normalization", "augmentation", "features.mels", "name",
        "variant"]  # fmt: skip


class HangError(BaseException):
    """Not an Exception, so that nothing takes it for bad input."""


def outcomes(cases, log):
    """Carry out every command in this process; what each ended with goes to ``log`` as JSON lines."""

    def alarm(*_):
        raise HangError

    signal.signal(signal.SIGALRM, alarm)
    with log.open("w") as file:
        for name, words in cases:
            sys.stdout.flush()
            GlobalHydra.instance().clear()
            signal.alarm(SECONDS)
            try:
                code, fault = run_words(list(map(str, words))), ""
            except HangError:
                code, fault = -1, f"no end after {SECONDS} s"
            except BaseException:
                code, fault = -1, traceback.format_exc()
            signal.alarm(0)
            file.write(json.dumps({"name": name, "code": code, "fault": fault}) + "\n")
            file.flush()


def survive(tmp_path, cases, codes):
    """Run the cases in a child with little memory and look at how they ended."""
    log = tmp_path / "outcomes.jsonl"
    ended = isolated(tmp_path / "child", lambda: outcomes(cases, log), MEMORY_MB, patience=SECONDS * len(cases))
    found = [json.loads(line) for line in log.read_text().splitlines()]
    faults = [f"{case['name']}: {case['fault']}" for case in found if case["fault"]]
    assert not faults, f"{len(faults)} of {len(cases)}\n" + "\n".join(faults)[:6000]
    assert ended.code == 0, ended.shown[-3000:]  # a crash of the process itself
    assert "Traceback" not in ended.shown, ended.shown[-3000:]
    assert [case["name"] for case in found] == [name for name, _ in cases]
    ends = [case["code"] for case in found]
    assert set(ends) <= set(codes), [case for case in found if case["code"] not in codes]
    assert any(ends)  # some were refused: the mutations do harm
    assert not all(ends), ended.shown[-3000:]  # and some passed: it is not the command that is wrong


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model") / "checkpoints" / "best.ckpt")


@pytest.mark.faults
@pytest.mark.parametrize(("suffix", "count"), [("wav", 25), ("flac", 20), ("mp3", 15)])
def test_audio(tmp_path, model, suffix, count):
    generator = random.Random(suffix)
    samples = 0.1 * np.random.default_rng(0).standard_normal(8000)
    soundfile.write(tmp_path / f"whole.{suffix}", samples, 16000, subtype=FORMATS[suffix])
    content = (tmp_path / f"whole.{suffix}").read_bytes()
    cases = [("whole", ["ser", "predict", tmp_path / f"whole.{suffix}", "--checkpoint", model])]
    for number in range(count):
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(bytes_mutated(content, generator))
        cases.append((path.name, ["ser", "predict", path, "--checkpoint", model]))
    survive(tmp_path, cases, {0, 1, 3})


@pytest.mark.faults
def test_iemocap_label_files(tmp_path):
    generator = random.Random(1)
    root = write_iemocap(tmp_path / "IEMOCAP", 1, seconds=0.1)
    file = sorted(root.glob("Session2/dialog/EmoEvaluation/[!.]*.txt"))[0]
    content = file.read_bytes()
    cases = []
    for number in range(20):
        place = tmp_path / f"tree{number}"
        labels = place / "Session2" / "dialog" / "EmoEvaluation"
        labels.mkdir(parents=True)
        for session in root.iterdir():
            if session.name != "Session2":
                (place / session.name).symlink_to(session)
        (place / "Session2" / "sentences").symlink_to(root / "Session2" / "sentences")
        (labels / file.name).write_bytes(bytes_mutated(content, generator) if number else content)
        words = ["data=iemocap", f"data.root={place}", f"paths.cache={tmp_path / 'cache'}"]
        cases.append((place.name, ["ser", "extract", *words]))
    (tmp_path / "nothing").mkdir()
    cases.append(("nothing", ["ser", "extract", "data=iemocap", f"data.root={tmp_path / 'nothing'}"]))
    survive(tmp_path, cases, {0, 1, 3})


@pytest.mark.faults
def test_manifests(tmp_path):
    generator = random.Random(2)
    source = write_manifest(tmp_path / "corpus", 6, utterances_per_speaker_and_emotion=1, seconds=0.1, session=True)
    text = source.read_text()
    cases = []
    for number in range(40):
        path = source.with_name(f"{number}.csv")
        path.write_bytes(table_mutated(text, generator))
        words = ["data=manifest", f"data.manifest={path}", f"paths.cache={tmp_path}/cache{number}"]
        cases.append((path.name, ["ser", "extract", *words]))
    survive(tmp_path, cases, {0, 1, 3})


@pytest.mark.faults
def test_overrides(tmp_path, corpus, cache):
    generator = random.Random(3)
    cases = []
    for number in range(21):
        word = overrides_mutated(KEYS, generator) if number else "seed=3"
        words = [*corpus, *TINY, "trainer.max_epochs=1", "leakage=false", f"paths.cache={cache}"]
        cases.append((word, ["train.py", *words, f"paths.outputs={tmp_path}/out{number}", word]))
    survive(tmp_path, cases, {0, 1})


@pytest.mark.faults
def test_checkpoints(tmp_path, model):
    """Whole files by their checksums, with odd content."""
    generator = random.Random(4)
    sound = write_voice(tmp_path / "a.wav", "s1", "happy", 0.5, True)
    intact = torch.load(model, weights_only=True)
    cases = [("intact", ["ser", "predict", sound, "--checkpoint", model])]
    for number in range(30):
        content = {**intact}
        if number % 3:
            content["config"] = tree_mutated(make_config(), generator)
        else:
            name = generator.choice(sorted(intact["state_dict"]))
            weight = intact["state_dict"][name]
            odd = (weight.flatten(), weight[..., None], weight.double(), weight.to(torch.int64), weight * torch.nan,
                   torch.empty(0), "weight", weight.to_sparse() if weight.dim() else weight.bool())  # fmt: skip
            content["state_dict"] = {**intact["state_dict"], name: generator.choice(odd)}
        path = tmp_path / f"{number}.ckpt"
        torch.save(content, path)
        cases.append((path.name, ["ser", "predict", sound, "--checkpoint", path]))
    survive(tmp_path, cases, {0, 1, 3})


@pytest.mark.faults
def test_prediction_tables(tmp_path):
    generator = random.Random(5)
    fake_table(4, 8).to_csv(tmp_path / "whole.csv", index=False)
    text = (tmp_path / "whole.csv").read_text()
    cases = [("whole", ["ser", "compare", tmp_path / "whole.csv", tmp_path / "whole.csv"])]
    for number in range(30):
        path = tmp_path / f"{number}.csv"
        path.write_bytes(table_mutated(text, generator))
        cases.append((path.name, ["ser", "compare", tmp_path / "whole.csv", path]))
    survive(tmp_path, cases, {0, 1})


def test_a_manifest_may_name_any_readable_file_and_writes_nowhere_else(tmp_path):
    """Paths are read as they stand, absolute or with ``..``: the table is its author's own command. What they name is
    only ever opened as audio, and no name out of a table becomes the name of a file."""
    table = write_manifest(tmp_path / "corpus", 6, utterances_per_speaker_and_emotion=1, seconds=0.1, session=True)
    outside = write_voice(tmp_path / "outside" / "voice.wav", "spk1", "sad", 0.2, True)
    (tmp_path / "outside" / "secret.txt").write_text("This is no sound.")
    lines = table.read_text().splitlines()
    changed = [f"{outside},sad,spk1,F,s1", "../outside/secret.txt,sad,spk1,F,s1"]
    table.write_text("\n".join([*lines, *changed]) + "\n")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    words = ["data=manifest", f"data.manifest={table}", f"paths.cache={tmp_path}/out/cache"]
    ended = command(tmp_path / "out" / "log", "ser", "extract", *words)
    assert ended.code == 3, ended.shown  # the file that is no audio is left out, the rest is extracted
    assert "1 of 26 could not be read" in " ".join(ended.shown.split()), ended.shown
    written = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert before == [path for path in written if tmp_path / "out" not in path.parents]
