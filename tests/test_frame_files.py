"""Frames that another program made: imported once, checked one by one, and what a model of them takes."""

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from ser import training
from ser.cli import main
from ser.config.page import source_name
from ser.data.corpora.manifest import manifest as manifest_corpus
from ser.data.corpus import Corpus, Utterance
from ser.encoders import FrameFiles, LogMel
from ser.errors import SerError
from ser.extraction.frames import extract
from ser.extraction.inventory import AudioHashes

DIM = 6


def frames_of(name, length=9):
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal((length, DIM)).astype(np.float32)


def corpus_of(names, seconds=0.18, **facts):
    utterances = [
        Utterance(name, Path(f"{name}.wav"), "sad", f"speaker{n}", n % 2 + 1, "F", seconds, **facts)
        for n, name in enumerate(names)
    ]
    return Corpus("toy", ("sad",), tuple(utterances))


def imported(corpus, root, cache, **settings):
    return extract(corpus, FrameFiles(root, **settings), cache, show_progress=False)


def test_every_format_gives_the_frames_that_were_saved(tmp_path):
    root = tmp_path / "frames"
    (root / "deeper").mkdir(parents=True)
    arrays = {name: frames_of(name) for name in "abcdef"}
    np.save(root / "a.npy", arrays["a"])
    np.savez(root / "deeper" / "b.npz", arrays["b"])
    save_file({"any": arrays["c"]}, root / "c.safetensors")
    torch.save(torch.from_numpy(arrays["d"]).bfloat16(), root / "d.pt")
    torch.save({"feats": torch.from_numpy(arrays["e"])}, root / "e.pt")
    np.save(root / "f.npy", arrays["f"][None])
    found = imported(corpus_of("abcdef"), root, tmp_path / "cache")
    assert found.failures == {} and found.extracted == 6
    for name, expected in arrays.items():
        rounded = torch.from_numpy(expected).bfloat16().float().numpy() if name == "d" else expected
        np.testing.assert_array_equal(found.cache.read(name), rounded.astype(np.float16))
    again = imported(corpus_of("abcdef"), root, tmp_path / "cache")
    assert (again.extracted, again.reused) == (0, 6)


def test_bad_files_are_listed_one_by_one_and_the_rest_goes_on(tmp_path):
    good = frames_of("good")
    for name in ("good", "fine", "well"):
        np.save(tmp_path / f"{name}.npy", good)
    holed = good.copy()
    holed[2, 1] = np.nan
    bad = {
        "narrow": good[:, :4],
        "holed": holed,
        "empty": good[:0],
        "turned": good.T,
        "objects": np.array([good, 1], object),
    }
    for name, array in bad.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    np.savez(tmp_path / "two.npz", good, good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:150])
    names = ["good", "fine", "well", *bad, "module", "two", "cut", "absent"]
    failures = imported(corpus_of(names), tmp_path, tmp_path / "cache").failures
    reasons = {
        "narrow": "(9, 4), expected (L, 6)",
        "holed": "NaN",
        "empty": "no frames",
        "turned": "features.transposed=true",
        "objects": "unpickling",
        "module": "unpickling",
        "two": "2 arrays",
        "cut": "cannot be read",
        "absent": "no file of frames",
    }
    assert failures.keys() == reasons.keys()
    assert all(reason in failures[name] and "\n" not in failures[name] for name, reason in reasons.items())


def test_vectors_and_transposed_frames_are_read_as_asked(tmp_path):
    for name in "ab":
        (tmp_path / "vectors").mkdir(exist_ok=True)
        (tmp_path / "turned").mkdir(exist_ok=True)
        np.save(tmp_path / "vectors" / f"{name}.npy", frames_of(name)[0])
        np.save(tmp_path / "turned" / f"{name}.npy", frames_of(name).T)
    vectors = imported(corpus_of("ab"), tmp_path / "vectors", tmp_path / "cache").cache
    assert set(vectors.lengths.values()) == {1} and vectors.dim == DIM
    turned = imported(corpus_of("ab"), tmp_path / "turned", tmp_path / "cache", transposed=True).cache
    np.testing.assert_array_equal(turned.read("a"), frames_of("a").astype(np.float16))


def test_frames_without_a_common_width_are_refused_rather_than_taken_for_another_layout(tmp_path):
    for length, name in enumerate("abcdef", 20):
        np.save(tmp_path / f"{name}.npy", frames_of(name, length).T)
    with pytest.raises(SerError, match=r"6 widths.*features.transposed=true"):
        imported(corpus_of("abcdef"), tmp_path, tmp_path / "cache")
    assert set(imported(corpus_of("abcdef"), tmp_path, tmp_path / "cache", transposed=True).cache.lengths) == {
        *"abcdef"
    }


@pytest.mark.parametrize("others, refused", [(30, True), (29, False), (1, False)])
def test_frames_of_another_width_are_told_with_examples_and_refused_where_none_is_that_of_most(
    tmp_path, caplog, others, refused
):
    """Wherever they lie among the files; one of 60 can be missed before it is read, but is left out by name then."""
    names = [f"u{number:02d}" for number in range(60)]
    for number, name in enumerate(names):
        np.save(tmp_path / f"{name}.npy", np.ones((5, DIM + (number >= 60 - others)), np.float32))
    if refused:
        with pytest.raises(SerError, match=rf"2 widths: {DIM} in 30; {DIM + 1} in 30 \(u30, u31, u32 \.\.\.\)"):
            imported(corpus_of(names), tmp_path, tmp_path / "cache")
        assert len(imported(corpus_of(names), tmp_path, tmp_path / "cache", dim=DIM).failures) == others
        return
    result = imported(corpus_of(names), tmp_path, tmp_path / "cache")
    assert list(result.failures) == names[-others:] and result.cache.dim == DIM
    if others > 2:
        told = f"{others} of 60 files have another width than {DIM} and are left out: {DIM + 1} in {others} (u31, u32,"
        assert told in caplog.text


@pytest.mark.parametrize("suffix", [".emo", ".jsonl", ".tsv"])
def test_the_flat_layout_of_emotion2vec_is_cut_by_its_lengths(tmp_path, suffix):
    arrays = {name: frames_of(name, length) for name, length in (("a", 3), ("b", 1), ("c", 5))}
    np.save(tmp_path / "train.npy", np.concatenate(list(arrays.values())))
    (tmp_path / "train.lengths").write_text("".join(f"{len(array)}\n" for array in arrays.values()))
    lines = {
        ".emo": [f"{name} neu" for name in arrays],
        ".jsonl": [json.dumps({"key": name, "emo": "neu"}) for name in arrays],
        ".tsv": ["/audio", *(f"x/{name}.wav\t16000" for name in arrays)],
    }
    (tmp_path / f"train{suffix}").write_text("\n".join(lines[suffix]) + "\n")
    cache = imported(corpus_of("cab"), tmp_path, tmp_path / "cache").cache
    for name, array in arrays.items():
        np.testing.assert_array_equal(cache.read(name), array.astype(np.float16))
    (tmp_path / "train.lengths").write_text("3\n1\n")
    with pytest.raises(SerError, match="2 lines, but 3 ids"):
        imported(corpus_of("abc"), tmp_path, tmp_path / "cache")
    (tmp_path / "train.lengths").write_text("3\n1\n4\n")
    with pytest.raises(SerError, match=r"9 rows.*add up to 8"):
        imported(corpus_of("abc"), tmp_path, tmp_path / "cache")
    for lengths in ("3\nmany\n5\n", "3\n-1\n7\n"):
        (tmp_path / "train.lengths").write_text(lengths)
        with pytest.raises(SerError, match=r"lists beside .*train\.npy cannot be read"):
            imported(corpus_of("abc"), tmp_path, tmp_path / "cache")
    (tmp_path / "train.lengths").write_text("3\n1\n5\n")
    (tmp_path / f"train{suffix}").write_bytes(b'{"name": "a"}\n\xff')
    with pytest.raises(SerError, match=r"lists beside .*train\.npy cannot be read"):
        imported(corpus_of("abc"), tmp_path, tmp_path / "cache")


def test_files_are_found_by_id_by_audio_name_or_by_the_column_frames(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    for name in ("x/1", "y/1", "y/2"):
        np.save(tmp_path / f"{name}.npy", frames_of(name))
    files = FrameFiles(tmp_path)
    utterance = Utterance("x/1", Path("1.wav"), "sad", "s", 1, "F")
    assert files.locate(utterance).path == tmp_path / "x/1.npy"
    named = Utterance("u7", Path("2.wav"), "sad", "s", 1, "F")
    assert files.locate(named).path == tmp_path / "y/2.npy"
    assert files.locate(Utterance("u8", Path(), "sad", "s", 1, "F", frames=Path("y/1.npy"))).path.parent.name == "y"
    with pytest.raises(SerError, match="2 files of frames"):
        files.locate(Utterance("1", Path("1.wav"), "sad", "s", 1, "F"))
    with pytest.raises(SerError, match="no such file"):
        files.locate(Utterance("u9", Path(), "sad", "s", 1, "F", frames=Path("z.npy")))


def test_a_manifest_of_ids_alone_is_enough_for_frames_and_said_where_audio_is_needed(tmp_path):
    table = tmp_path / "m.csv"
    table.write_text("id,emotion,speaker\n" + "a1,sad,a\nb1,happy,b\n")
    for name in ("a1", "b1"):
        np.save(tmp_path / f"{name}.npy", frames_of(name))
    corpus = manifest_corpus(str(table))
    cache = imported(corpus, tmp_path, tmp_path / "cache", frame_rate=50).cache
    assert np.array_equal(cache.read("b1"), frames_of("b1").astype(np.float16))
    with pytest.raises(SerError, match="names no audio; add its column path"):
        extract(corpus, LogMel(), tmp_path / "cache", show_progress=False)


def test_the_frame_rate_is_found_by_the_audio_or_asked_for(tmp_path):
    np.save(tmp_path / "a.npy", frames_of("a"))
    np.save(tmp_path / "b.npy", frames_of("b"))
    files = FrameFiles(tmp_path)
    extract(corpus_of("ab", seconds=0.2), files, tmp_path / "cache", show_progress=False)
    assert files.frame_rate == 45.0
    files = FrameFiles(tmp_path)
    extract(corpus_of("ab", seconds=0.182), files, tmp_path / "cache", show_progress=False)
    assert files.frame_rate == 50.0
    with pytest.raises(SerError, match=r"features\.frame_rate=50"):
        imported(corpus_of("ab", seconds=0.0), tmp_path, tmp_path / "cache")
    assert imported(corpus_of("ab", seconds=0.0), tmp_path, tmp_path / "cache", frame_rate=50).reused == 2


def test_only_the_first_seconds_are_kept(tmp_path):
    np.save(tmp_path / "a.npy", frames_of("a", 9))
    np.save(tmp_path / "b.npy", frames_of("b", 4))
    with pytest.raises(SerError, match=r"features\.max_seconds=0\.1 .* features\.frame_rate=50"):
        FrameFiles(tmp_path, max_seconds=0.1)
    whole = imported(corpus_of("ab"), tmp_path, tmp_path / "cache", frame_rate=50)
    cut = imported(corpus_of("ab"), tmp_path, tmp_path / "cache", frame_rate=50, max_seconds=0.1)
    assert (whole.cache.lengths, cut.cache.lengths) == ({"a": 9, "b": 4}, {"a": 5, "b": 4})
    np.testing.assert_array_equal(cut.cache.read("a"), whole.cache.read("a")[:5])


def test_other_content_is_imported_again_and_changes_the_identity(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", frames_of(name))
    before = imported(corpus_of("ab"), tmp_path, tmp_path / "cache")
    np.save(tmp_path / "a.npy", frames_of("other"))
    after = imported(corpus_of("ab"), tmp_path, tmp_path / "cache")
    assert (after.extracted, after.reused) == (1, 1)
    assert before.cache.fingerprint() != after.cache.fingerprint()
    np.testing.assert_array_equal(after.cache.read("a"), frames_of("other").astype(np.float16))
    assert AudioHashes(next((tmp_path / "cache").rglob("audio.json"))).changed([tmp_path / "a.npy"]) == []


def test_a_missing_folder_and_a_folder_without_frames_are_refused(tmp_path):
    for root in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(SerError, match=r"features\.root="):
            imported(corpus_of("ab"), root, tmp_path / "cache")
    # A model knows the width of its frames, so none is opened before; still one error and not one per utterance.
    with pytest.raises(SerError, match=r"^features=files takes frames and no audio.* features\.root=/"):
        imported(corpus_of("ab"), None, tmp_path / "cache", dim=DIM)
    assert not list(tmp_path.iterdir())


def test_files_of_one_name_in_two_folders_have_run_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other, here = (source_name("manifest", path) for path in ("a/my.csv", "b/my.csv", "my.csv"))
    assert len({one, other, here}) == 3 and here == "my" and one == source_name("manifest", str(tmp_path / "a/my.csv"))
    assert source_name("files", "/x/frames") != source_name("files", "/y/frames")
    assert source_name("ravdess", None) == "ravdess"


@pytest.fixture(scope="module")
def frames(manifest, tmp_path_factory):
    """A file of frames per utterance of the small corpus; the emotion moves them."""
    root = tmp_path_factory.mktemp("frames")
    for row in pd.read_csv(manifest).to_dict("records"):
        name = Path(row["path"]).stem
        shift = 2.0 * (row["emotion"] == "sad")
        np.save(root / f"{name}.npy", frames_of(name, 20) + np.float32(shift))
    return root


def test_a_run_on_files_predicts_files_as_it_did_and_takes_no_audio(configure, frames, manifest, tmp_path, capsys):
    words = ["features=files", f"features.root={frames}"]
    training.run(configure(*words, folder=tmp_path / "run"), {"features": "files", "model": "gru"}, words)
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv").set_index("id")
    few = tmp_path / "few"
    few.mkdir()
    for name in predictions.index[:4]:
        (few / f"{name}.npy").write_bytes((frames / f"{name}.npy").read_bytes())
    (few / "broken.npy").write_bytes(b"nothing")
    table = tmp_path / "table.csv"
    assert main(["predict", str(few), "--checkpoint", str(tmp_path / "run"), "--output", str(table)]) == 3
    found = pd.read_csv(table)
    found.index = [Path(name).stem for name in found["file"]]
    columns = [column for column in predictions if column.startswith("p_")]
    expected = predictions.loc[found.index, columns].to_numpy()
    np.testing.assert_allclose(found[columns].to_numpy(), expected, atol=1e-5)
    flat = tmp_path / "flat"  # a file of many
    flat.mkdir()
    np.save(flat / "train.npy", np.concatenate([np.load(few / f"{name}.npy") for name in found.index]))
    (flat / "train.lengths").write_text("20\n" * len(found))
    (flat / "train.emo").write_text("\n".join(found.index))
    assert main(["predict", str(flat), "--checkpoint", str(tmp_path / "run"), "--output", str(table)]) == 0
    again = pd.read_csv(table)
    assert [Path(name).name for name in again["file"]] == list(found.index)
    np.testing.assert_allclose(again[columns].to_numpy(), expected, atol=1e-5)
    for flags in (["--window", "2"], ["--speaker-per-folder"], ["--attention", str(tmp_path / "drawn")]):
        assert main(["predict", str(few), "--checkpoint", str(tmp_path / "run"), *flags]) == 1
        assert f"{flags[0]} needs audio" in " ".join(capsys.readouterr().err.split())
    audio = next(manifest.parent.rglob("*.wav"))
    for command in (["predict", str(audio)], ["listen", "--input", str(audio)]):
        assert main([*command, "--checkpoint", str(tmp_path / "run")]) == 1
        assert "ser predict frames/" in capsys.readouterr().err
    assert main(["evaluate", str(manifest.parent), "--checkpoint", str(tmp_path / "run")]) == 1
    assert "error: features=files takes frames and no audio" in capsys.readouterr().err
