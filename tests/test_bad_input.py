"""Bad input: one sentence, no traceback, an exit code, and nothing lost that was there before."""

import errno
import logging
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_corpora import RATE, write_manifest, write_ravdess
from hydra.core.global_hydra import GlobalHydra
from tiny_encoders import save_tiny_hubert, save_tiny_whisper

import ser.io
from ser import cli
from ser.cli.train import run_job
from ser.config import compose_config
from ser.data.cache import FeatureCache
from ser.errors import SerError

ROOT = Path(ser.io.__file__).resolve().parent.parent
TINY = [
    "model=gru",
    "model.hidden_size=8",
    "trainer.max_epochs=1",
    "adversarial=none",
    "augmentation=none",
    "logger=none",
    "callbacks.progress_bar=null",
    "leakage=false",
    "figures=false",
]
PLACE = ["name=run", "variant=bad"]  # every command of this file runs in the same folder


def words_for(outputs, *words):
    """The words of a small run; a corpus is only added where none is named."""
    several = [word for word in words if word == "-m"]
    return [*several, f"paths.outputs={outputs}", *TINY, *PLACE, *(word for word in words if word != "-m")]


def run_program(*words):
    """Run train.py as a program would be, inside this process: its exit code and what Python says on its behalf."""
    root, given = logging.getLogger(), sys.argv
    handlers, level = root.handlers[:], root.level
    sys.argv = ["train.py", *words]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    except SystemExit as ended:  # Python prints a message and exits with 1
        return (1, ended.code) if isinstance(ended.code, str) else (ended.code or 0, "")
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        sys.argv, root.handlers[:], root.level = given, handlers, level
        GlobalHydra.instance().clear()
    return 0, ""


@pytest.fixture
def train(capsys):
    """Run a small experiment: its exit code, its error message and what it printed."""

    def run(outputs, *words):
        capsys.readouterr()
        code, said = run_program(*words_for(outputs, *words))
        output = capsys.readouterr()
        assert "Traceback" not in output.err + output.out
        return code, said, output.out

    return run


@pytest.fixture
def refusal():
    """The one sentence that refuses a small experiment, without the program's start, which composes it twice more."""

    def attempt(outputs, *words):
        with pytest.raises((SerError, SystemExit)) as refused:
            run_job(compose_config(words_for(outputs, *words)))
        return one_sentence(str(refused.value))

    yield attempt
    GlobalHydra.instance().clear()


@pytest.fixture
def ser_command(capsys):
    """Run a ``ser`` subcommand: its exit code and what it printed, on one line."""

    def run(*words):
        capsys.readouterr()
        code = cli.main(list(map(str, words)))
        output = capsys.readouterr()
        assert "Traceback" not in output.err + output.out
        return code, " ".join((output.out + output.err).split())

    yield run
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_manifest(
        tmp_path_factory.mktemp("corpus"), 6, utterances_per_speaker_and_emotion=1, seconds=0.2, session=True
    )


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, corpus):
    """Where a first run has finished."""
    folder = tmp_path_factory.mktemp("outputs")
    assert run_program(*words_for(folder, "data=manifest", f"data.manifest={corpus}")) == (0, "")
    return folder


def results(outputs):
    """All that was computed: figures, predictions, checkpoints, cached frames."""
    wanted = ("metrics.json", "predictions.csv", "embeddings.npy", "best.ckpt", "*.safetensors")
    return {path: path.read_bytes() for name in wanted for path in outputs.rglob(name)}


def everything(outputs):
    """Every file and folder: a refused command leaves none behind."""
    return sorted(path.relative_to(outputs).as_posix() for path in outputs.rglob("*") if "cache" not in path.parts)


def one_sentence(text):
    body = text.removeprefix("error: ")
    assert body and "\n" not in body and body.rstrip("'\")")[-1] in ".?!", text
    assert len(body) < 600
    return body


WORDS = [
    ("model=foo", "known are bottleneck_gru"),
    ("experiment=foo", "the group experiment has no such option"),
    ("experiment=recomended", "did you mean recommended?"),
    ("recommended", "write experiment=recommended."),
    ("gru", "write model=gru."),
    ("x" * 300, "expected key=value"),
    ("adversary/erasure", "write experiment=adversary/erasure."),
    ("--data=ravdess", "write data=ravdess, without dashes."),
    ("--seed 3", "write seed=..., without dashes."),
    ("data.root=/r\udcffoot", r"data.root=/r\xffoot was given, expected UTF-8"),
    ("modle=gru", "did you mean model?"),
    ("adversarial=leace", "did you mean erasure? Erases the directions"),
    ("adversarial=hsic", "did you mean independence?"),
    ("adversarial=coral", "known are confusion, critics"),
    ("augmentation=adain", "did you mean mixstyle?"),
    ("protocol=loso", "did you mean session or speaker?"),
    ("features=whisper", "did you mean whisper_base or whisper_base_layers?"),
    ("model=lstm", "did you mean gru? The baseline, a GRU or (model.cell=lstm) LSTM"),
    ("model=transformer", "known are bottleneck_gru"),
    ("experiment=gru", "did you mean bottleneck_gru, small_gru or small_gru_speaker?"),
    ("enrol=8", "known are adversarial, "),
    ("corpus=emodb", "did you mean data?"),
    ("adversarial.probe=true", "known are adversarial.answer, "),
    ("callbacks.confusion_every_epoch=true", "did you mean callbacks.history.confusion?"),
    ("optimizer.learning_rate=1", "did you mean optimizer.lr?"),
    ("typo=1", "the key 'typo'"),
    ("++typo=1", "'typo'"),
    ("batches.batchsize=3", "did you mean batches.batch_size?"),
    ("++batches.batchsize=3", "did you mean batches.batch_size?"),
    ("optimizer.lrr=1", "did you mean optimizer.lr?"),
    ("++optimizer.lrr=1", "unexpected keyword argument 'lrr'"),
    ("features.layer=99", "needs features=hubert_base or hubert_large"),
    ("features.window=clip", "needs features=whisper_base or whisper_base_layers;"),
    ("lr_schedule.cycle_growth=2", "needs lr_schedule=cosine;"),
    ("model=enhanced_gru model/attention=dot", "needs model=gru;"),
    ("baseline=gru", "belongs to `ser sweep`"),
    ("root=/nowhere", "did you mean data.root or features.root?"),
    ("max_seconds=3", "did you mean batches.max_seconds or features.max_seconds?"),
    ("normalization=-1", "must be a string"),
    ("fold", "expected key=value"),
    ("fold=", "could not be converted to Integer"),
    ("fold=abc", "could not be converted to Integer"),
    ("fold=1.5", "could not be converted to Integer"),
    ("fold=0", "folds 1 to 3"),
    ("fold=4", "folds 1 to 3"),
    ("seed=abc", "could not be converted to Integer"),
    ("seed=-1", "from 0"),
    ("resume=maybe", "is not a valid bool"),
    ("batches.batch_size=0", "at least 1"),
    ("batches.batch_size=many", "could not be converted to Integer"),
    ("batches.max_frames=abc", "could not be converted to Integer"),
    ("batches.workers=-1", "workers=-1"),
    ("trainer.max_epochs=-1", "at least 1"),
    ("trainer.max_epochs=0", "at least 1"),
    ("trainer.max_epochs=null", "trainer.max_epochs"),
    ("trainer.min_steps=0", "at least 1"),
    ("trainer.devices=0", "trainer.devices=0"),
    ("trainer.precision=foo", "Precision 'foo' is invalid"),
    ("data.emotions=[sad]", "at least two"),
    ("data.emotions=sad", "expected a list"),
    ("data.emotions=[sad,foo]", "no emotion foo"),
    ("data.manifest=/nowhere.csv", "does not exist"),
    ("data.manifest=null", "no manifest was given"),
    ("model.hidden_size=0", "model.hidden_size=0"),
    ("model.dropout=abc", "expected a number"),
    ("model.attention=dot", "model.attention=dot"),
    ("model=enhanced_gru model.heads=3", "model.heads=3 was given, expected a divisor of the 32 channels"),
    ("model=enhanced_gru model.hidden_size=7", "model.heads=8 was given, expected a divisor of the 28 channels"),
    ("optimizer.lr=abc", "optimizer.lr=abc"),
    ("optimizer.lr=-1", "Invalid learning rate"),
    ("optimizer.lr=inf", "optimizer.lr=inf was given"),
    ("protocol=superb protocol.validation_fraction=2", "expected a number from 0.001 to 0.999"),
    ("adversarial_weight=abc", "could not be converted to Float"),
    ("extraction.device=foo", "not usable here"),
    ("callbacks.early_stopping.patience=abc", "expected a number"),
    ("features=hubert_base features.checkpoint=/nowhere", "features.checkpoint=FOLDER"),
    ("features=hubert_base features.dtype=foo", "float32"),
    ("logger=foo", "known are csv"),
    ("normalization=foo", "known are corpus, global"),
    ("lr=0.1", "did you mean optimizer.lr?"),
    ("learning_rate=0.1", "did you mean optimizer.lr?"),
    ("epochs=5", "did you mean trainer.max_epochs or trainer.min_epochs?"),
    ("modle.hidden_size=8", "did you mean model.hidden_size?"),
    ("batches.max_seconds=nan", "max_seconds=nan"),
    ("seed=99999999999", "4294967295"),
    ("adversarial_weight=nan", "expected a number"),
    ("augmentation.mixup_alpha=-1", "mixup_alpha=-1 was given"),
    ("l2_reg=nan", "expected a number"),
    ("model.layers=0", "at least 1"),
    ("lr_schedule=cosine lr_schedule.cycle_growth=0.5", "at least 1"),
    ("alpha_schedule=step alpha_schedule.every_epochs=0", "above 0"),
    ("features.hop_seconds=1e-9", "expected a number from 0.001 to 1"),
    ("trainer.max_epochs=abc", "expected a whole number"),
    ("optimizer.lr=${no.such}", "'no.such' not found"),
    ("optimizer._target_=foo.bar", "No module named 'foo'"),
    ("hydra.run.dir=${nope}", "'nope' not found"),
    ("fold=1,2", "several runs are started by -m"),
    ("data=combined data.corpora=[ravdess,emo_db]", "data.corpora has emo_db, expected some of audformat, casia"),
    ("-m fold=1,abc", "fold=abc"),
    ("-m model=gru,foo", "model=foo was given"),
    ("callbacks=null", "must be a string"),
    ("batches=null", "not Optional"),
    ("paths.outputs=", "expected a folder"),
]


# As the program: what Hydra itself reads, and one word for each place that refuses a word.
BY_THE_PROGRAM = ["typo=1", "fold=", "fold=4", "trainer.max_epochs=0", "trainer.precision=foo", "data.manifest=null",
                  "model.hidden_size=0", "--data=ravdess", "optimizer.lr=${no.such}", "hydra.run.dir=${nope}",
                  "paths.outputs="]  # fmt: skip


@pytest.mark.parametrize(("words", "part"), WORDS, ids=[words for words, _ in WORDS])
def test_words_that_make_no_run(train, refusal, outputs, corpus, words, part):
    before, files = results(outputs), everything(outputs)
    given = ["data=manifest", f"data.manifest={corpus}", *words.split()]
    if words in BY_THE_PROGRAM or words.startswith("-m"):
        code, said, _ = train(outputs, *given)
        assert code == 1 and part in one_sentence(said)
    else:
        assert part in refusal(outputs, *given)
    assert len(before) == 4 + 1  # four files of the run, one portion of the cache
    assert results(outputs) == before
    assert everything(outputs) == files


@pytest.mark.parametrize("word", ["fold=1\n2", "mod\nel=gru", "data.manifest='a\nb'", "data.manifest='a\x1b[2J\nb'"])
def test_control_characters_of_a_value_are_written_out(refusal, tmp_path, word):
    said = refusal(tmp_path, "data=manifest", word)
    assert r"\n" in said and said.isprintable()


@pytest.mark.parametrize("command", ["predict", "report"])
def test_control_characters_of_a_path_are_written_out(capsys, tmp_path, command):
    assert cli.main([command, f"{tmp_path}/a\nb"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert r"a\nb does not exist" in line


@pytest.mark.parametrize(
    "word", ["model.cell=mingru", "adversarial.dropout=2", "optimizer.lr=-1", "loss.label_smoothing=2",
             "alpha_schedule.max_alpha=-1", "lr_schedule.min_lr=-1", "trainer.max_epochs=-3", "trainer.precision=foo",
             "trainer.accelerator=foo", "trainer.devices=0", "trainer.threads=x", "trainer.accumulate_grad_batches=0",
             "trainer.gradient_clip_val=-1", "+trainer.check_val_every_n_epoch=0", "+trainer.nothing=3",
             "+trainer.fast_dev_run=true", "callbacks.early_stopping.patience=x", "callbacks.early_stopping.mode=foo",
             "callbacks.early_stopping.monitor=val/foo", "callbacks.checkpoint.monitor=test/uar",
             "+callbacks.checkpoint.save_top_k=-5",
             "+callbacks.checkpoint.save_top_k=0", "callbacks.checkpoint.filename=other", "callbacks.checkpoint=null",
             "+logger.tensorboard.foo=1",
             "logger=csv +logger.csv.flush_logs_every_n_steps=0", "+callbacks.mine=3", "+logger.mine._target_=no.such",
             "logger=csv logger.csv.save_dir=null", "batches.batch_size=0", "batches.max_frames=0", "batches.jitter=-1",
             "batches.balance=speaker", "batches.max_seconds=-1", "batches.max_seconds=inf", "l2_reg=inf",
             "batches.workers=-1", "extraction.workers=-1",
             "extraction.processes=x", "extraction.batch_seconds=0"]
)  # fmt: skip
def test_settings_are_refused_before_extraction(refusal, corpus, tmp_path, word):
    given = ["data=manifest", f"data.manifest={corpus}", "model=gru", "adversarial=gradient_reversal", *word.split()]
    key, _, value = word.split()[-1].lstrip("+").partition("=")
    said = refusal(tmp_path, *given, f"paths.cache={tmp_path}/cache")
    assert (value in said.lower() or value == "null") and key.split(".")[-1 if "_target_" not in key else 1] in said
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("data", "part"), [("iemocap", "IEMOCAP_ROOT"), ("ravdess", "RAVDESS_ROOT"), ("emodb", "EMODB_ROOT")]
)
def test_a_corpus_folder_that_is_not_given_missing_or_empty(refusal, tmp_path, monkeypatch, data, part):
    monkeypatch.delenv(part, raising=False)
    for root in ([], [f"data.root={tmp_path}/nowhere"], [f"data.root={tmp_path}"]):
        assert "data.root=" in refusal(tmp_path / "out", f"data={data}", *root)


def test_a_corpus_of_one_speaker(refusal, tmp_path):
    table = write_manifest(tmp_path, speakers=1, seconds=0.2)
    said = refusal(tmp_path / "out", "data=manifest", f"data.manifest={table}")
    assert "1 speaker, expected at least 2" in said


def test_a_training_part_without_one_of_the_emotions(refusal, tmp_path):
    table = write_manifest(tmp_path, utterances_per_speaker_and_emotion=1, seconds=0.2, session=True)
    lines = table.read_text().splitlines()
    table.write_text("\n".join(line for line in lines if "sad" not in line or ",s1" in line))
    said = refusal(tmp_path / "out", "data=manifest", f"data.manifest={table}", "normalization=speaker")
    assert "no sad utterance to train on" in said


@pytest.fixture
def damaged(tmp_path):
    """A corpus with every kind of bad file, and two good ones of unusual form; where it lies and what is bad."""
    table = write_manifest(tmp_path, utterances_per_speaker_and_emotion=2, seconds=0.2, session=True)
    files = sorted((tmp_path / "audio").iterdir())
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE // 5, 2))
    bad = dict(zip(("empty", "truncated", "NaN", "decoded", "at least one frame", "no such"), files, strict=False))
    bad["empty"].write_bytes(b"")
    bad["truncated"].write_bytes(bad["truncated"].read_bytes()[:3000])
    soundfile.write(bad["NaN"], np.full(3200, np.nan), RATE, subtype="FLOAT")
    bad["decoded"].write_text("This is no sound.")
    soundfile.write(bad["at least one frame"], noise[:300, 0], RATE)
    bad["no such"].unlink()
    soundfile.write(files[6], noise, 44100, subtype="PCM_24")
    soundfile.write(files[7], noise[:, 0], 8000, subtype="PCM_U8")
    return table, {path.stem: part for part, path in bad.items()}


def test_bad_files_are_left_out_each_with_its_reason(ser_command, train, damaged, tmp_path):
    table, bad = damaged
    words = ["data=manifest", f"data.manifest={table}"]
    code, said = ser_command("extract", f"paths.outputs={tmp_path}/out", *words)
    assert code == 3  # partly failed
    assert f"{len(bad)} of 48 could not be read" in said
    (report,) = (tmp_path / "out").rglob("failures.csv")
    lines = report.read_text().splitlines()[1:]
    assert len(lines) == len(bad)  # stereo at 44.1 kHz and 8 bits are read as they are
    for name, part in bad.items():
        (line,) = (line for line in lines if line.startswith(name + ","))
        assert part in line

    code, _, shown = train(tmp_path / "out", *words)
    assert code == 0  # the rest trains, and says what it lacks
    assert all(name in shown for name in bad)


@pytest.mark.parametrize("subtype", [None, "PCM_16", "PCM_24"])
def test_the_same_recording_under_two_speakers_is_refused_unless_allowed(train, refusal, tmp_path, subtype):
    """As a copy of the file, and as a FLAC file of the same samples."""
    table = write_manifest(tmp_path, utterances_per_speaker_and_emotion=1, seconds=0.2, session=True)
    one, *_, other = sorted((tmp_path / "audio").iterdir())
    if subtype is None:
        other.write_bytes(one.read_bytes())
    else:
        soundfile.write(other.with_suffix(".flac"), *soundfile.read(one), subtype=subtype)
        table.write_text(table.read_text().replace(other.name, other.with_suffix(".flac").name))
    words = ["data=manifest", f"data.manifest={table}"]
    said = refusal(tmp_path / "out", *words)
    assert "same content" in said and "allow_duplicates=true" in said
    assert not list((tmp_path / "out").rglob("metrics.json"))
    if subtype is None:
        code, _, shown = train(tmp_path / "out", *words, "allow_duplicates=true")
        assert code == 0 and "same content" in " ".join(shown.split())


def test_a_corpus_without_one_readable_file(ser_command, tmp_path):
    table = write_manifest(tmp_path, seconds=0.2)
    for path in (tmp_path / "audio").iterdir():
        path.write_bytes(b"RIFF")
    code, said = ser_command("extract", f"paths.outputs={tmp_path}/out", "data=manifest", f"data.manifest={table}")
    assert code == 1
    assert "error: none of the 48 utterances" in said


@pytest.mark.parametrize("harm", ["flipped", "cut", "foreign", "text"])
def test_a_cache_that_is_damaged_or_foreign(refusal, outputs, corpus, tmp_path, harm):
    words = ["data=manifest", f"data.manifest={corpus}"]
    shutil.copytree(outputs, tmp_path / "out")
    before = results(tmp_path / "out")
    file = sorted((tmp_path / "out" / "cache").rglob("frames-*.safetensors"))[0]
    if harm == "foreign":
        assert cli.main(["extract", f"paths.outputs={tmp_path}/other", *words, "features.mels=40"]) == 0
        content = next((tmp_path / "other").rglob("frames-*.safetensors")).read_bytes()
    elif harm == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 255
    else:
        content = {"cut": file.read_bytes()[:-9], "text": b"nothing of use"}[harm]
    file.write_bytes(content)
    said = refusal(tmp_path / "out", *words)
    assert ("move that file" if harm == "foreign" else "delete that file") in said
    after = results(tmp_path / "out")
    assert after[file] == bytes(content)  # evidence is for the user to delete
    if harm != "flipped":  # frames are checked as they are read, when the new run has replaced the one before
        assert after == before | {file: bytes(content)}


def test_a_full_disk_while_extracting_keeps_what_was_written(train, tmp_path, corpus, monkeypatch):
    """The third file that is written fails; the next run goes on from the two."""
    sync, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    words = ["data=manifest", f"data.manifest={corpus}", "extraction.batch_seconds=1"]  # several portions
    monkeypatch.setattr(ser.io.os, "fsync", full)
    code, said, _ = train(tmp_path, *words)
    monkeypatch.setattr(ser.io.os, "fsync", sync)
    assert code == 1
    assert "No space left on device" in one_sentence(said)
    kept = list((tmp_path / "cache").rglob("*.safetensors"))
    assert kept and not list(tmp_path.rglob("*.tmp*"))
    count = sum(len(FeatureCache.of_shards([path]).lengths) for path in kept)
    code, _, shown = train(tmp_path, *words)
    assert code == 0
    assert 0 < count < 24 and f"reused {count}," in " ".join(shown.split()), shown


def test_a_full_disk_while_saving_a_checkpoint(train, tmp_path, corpus, monkeypatch):
    def full(self, *arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("lightning.Trainer.save_checkpoint", full)
    code, said, _ = train(tmp_path, "data=manifest", f"data.manifest={corpus}")
    assert code == 1
    assert "the disk is full" in one_sentence(said)


def test_outputs_and_cache_that_cannot_be_written(train, refusal, tmp_path, corpus):
    (tmp_path / "file").write_text("not a folder")  # unlike permissions this stops root as well
    words = ["data=manifest", f"data.manifest={corpus}"]
    code, said, _ = train(tmp_path / "file", *words)
    assert code == 1
    for message in (one_sentence(said), refusal(tmp_path, *words, f"paths.cache={tmp_path}/file")):
        assert "expected a writable folder" in message


def test_a_checkpoint_that_cannot_be_resumed(refusal, outputs, tmp_path, corpus):
    words = ["data=manifest", f"data.manifest={corpus}"]
    shutil.copytree(outputs, tmp_path, dirs_exist_ok=True)
    (metrics,) = tmp_path.rglob("metrics.json")
    metrics.unlink()  # interrupted
    before = results(tmp_path)
    (last,) = tmp_path.rglob("last.ckpt")
    content = last.read_bytes()
    for damage in (b"", content[: len(content) // 2], b"no checkpoint"):
        last.write_bytes(damage)
        said = refusal(tmp_path, *words, "resume=true")
        assert "is damaged" in said and "without resume=true" in said
    last.write_bytes(content)
    assert "model.hidden_size = 8, now 6" in refusal(tmp_path, *words, "resume=true", "model.hidden_size=6")
    assert results(tmp_path) == before


def test_a_layer_that_the_encoder_does_not_have(refusal, tmp_path, corpus):
    for name, save in (("hubert_base", save_tiny_hubert), ("whisper_base", save_tiny_whisper)):
        words = [f"features={name}", f"features.checkpoint={save(tmp_path / name)}", "features.layer=99"]
        said = refusal(tmp_path / "out", "data=manifest", f"data.manifest={corpus}", *words)
        assert "numbers from 0 to 3" in said


def test_one_bad_run_of_a_sweep_lets_the_others_finish_and_ends_with_an_exit_code(train, tmp_path, corpus):
    code, said, shown = train(tmp_path, "-m", "data=manifest", f"data.manifest={corpus}", "fold=1,9")
    assert code == 1
    assert "1 of 2 runs failed" in one_sentence(said)
    assert len(list(tmp_path.rglob("metrics.json"))) == 1
    assert "fold=9 does not exist" in " ".join(shown.split())


def test_names_of_any_length_and_kind_train(train, tmp_path, corpus):
    """Overrides far beyond what a file name may hold, and emotions that look like the screen's markup."""
    table = tmp_path / "markup.csv"
    table.write_text(corpus.read_text().replace("sad,", "[/nope],").replace("audio/", f"{corpus.parent}/audio/"))
    many = [f"+trainer.{key}={value}" for key, value in {
        "limit_train_batches": 1, "limit_val_batches": 1, "limit_predict_batches": 1.0, "check_val_every_n_epoch": 1,
        "val_check_interval": 1.0, "max_time": "00:01:00:00", "profiler": "null", "detect_anomaly": "false",
        "inference_mode": "true", "sync_batchnorm": "false", "barebones": "false", "fast_dev_run": "false",
    }.items()]  # fmt: skip
    for words in ([f"variant={'x' * 300}"], ["variant='${ser.variant:gru,null,${hydra:job.override_dirname}}'", *many]):
        code, said, _ = train(tmp_path / "out", "data=manifest", f"data.manifest={table}", *words)
        assert code == 0, said


def test_the_program_itself_says_one_sentence_and_nothing_else(tmp_path):
    write_ravdess(tmp_path / "empty", actors=0).mkdir(exist_ok=True)
    for words, part in ((["model=foo"], "model=foo was given"), (["fold=abc"], "fold=abc")):
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *words_for(tmp_path / "out", *words)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and part in one_sentence(done.stderr.strip())


def test_the_ser_command_says_the_same(ser_command, tmp_path):
    for word, part in (
        ("model=foo", "the group model has no such option"),
        ("fold=abc", "could not be converted to Integer"),
        ("++typo=1", "no such key"),
        ("nonsense", "expected key=value"),
    ):
        code, said = ser_command("extract", f"paths.outputs={tmp_path}", word)
        assert code == 1
        assert said.startswith("error: ") and part in said


def test_extraction_refuses_a_fold_that_there_is_not(ser_command, corpus, tmp_path):
    words = [f"paths.outputs={tmp_path}/out", "data=manifest", f"data.manifest={corpus}", "features=logmel"]
    code, said = ser_command("extract", *words, "fold=9")
    assert code == 1 and "fold=9 does not exist" in said
    assert not list(tmp_path.rglob("*.safetensors"))
    assert ser_command("extract", *words)[0] == 0  # whatever the protocol would say


def test_a_typo_is_named_when_the_page_is_only_shown():
    from ser.cli.train import check_arguments

    with pytest.raises(SerError, match=r"did you mean optimizer\.lr"):
        check_arguments(["--cfg", "job", "lr=0.1"])
    check_arguments(["--cfg", "job", "optimizer.lr=0.1"])
