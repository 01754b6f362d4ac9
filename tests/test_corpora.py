"""Every parser reads the true layout of its corpus, traps included, and says what is wrong with a wrong one."""

import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import fake_corpora
import pytest
from fake_corpora import iemocap_rows, write_emodb, write_iemocap, write_manifest, write_ravdess, write_voice

from ser.cli.sweep import expand
from ser.cli.train import check_arguments
from ser.config import compose_config, instantiate, quoted
from ser.data.audio import read_audio
from ser.data.corpora.iemocap import iemocap
from ser.data.corpora.manifest import manifest
from ser.data.corpora.meld import meld
from ser.data.corpora.named import CORPORA, folder, named
from ser.data.protocols import GivenProtocol
from ser.errors import SerError

RAVDESS_EMOTIONS = ("neutral", "happy", "sad", "angry")
SHARED = Path(__file__).parents[2] / "shared"


def ravdess(root, emotions=RAVDESS_EMOTIONS, **settings):
    return named("ravdess", root, emotions, **settings)


def emodb(root, emotions=None, **settings):
    return named("emodb", root, emotions or tuple(CORPORA["emodb"].emotions.values()), **settings)


def emotion_counts(corpus):
    return Counter(utterance.emotion for utterance in corpus.utterances)


def by_id(corpus):
    return {utterance.id: utterance for utterance in corpus.utterances}


@pytest.fixture(scope="module")
def iemocap_root(tmp_path_factory):
    return write_iemocap(tmp_path_factory.mktemp("release") / "IEMOCAP_full_release", seconds=0.1)


@pytest.fixture(scope="module")
def ravdess_root(tmp_path_factory):
    return write_ravdess(tmp_path_factory.mktemp("ravdess"), seconds=0.02)


@pytest.fixture(scope="module")
def emodb_root(tmp_path_factory):
    return write_emodb(tmp_path_factory.mktemp("emodb"), seconds=0.02)


def test_iemocap_reads_labels_and_takes_the_speaker_from_the_last_token(iemocap_root):
    corpus = iemocap(iemocap_root)
    assert corpus.emotions == ("neutral", "happy", "angry", "sad")
    assert emotion_counts(corpus) == dict.fromkeys(corpus.emotions, 20)
    assert corpus.speakers == [f"Ses{session:02d}{gender}" for session in range(1, 6) for gender in "FM"]
    assert [(u.session, u.id) for u in corpus.utterances] == sorted((u.session, u.id) for u in corpus.utterances)
    crossed = [u for u in corpus.utterances if u.id[5] != u.speaker[-1]]
    assert crossed, "someone talks in the dialogs where the other one wore the markers"
    for utterance in corpus.utterances:
        last = utterance.id.split("_")[-1]
        assert utterance.gender == last[0] and utterance.speaker == utterance.id[:5] + last[0]
        assert utterance.path.is_file() and utterance.seconds == pytest.approx(0.1)
    assert any("script01_1b" in u.id for u in corpus.utterances)


def test_iemocap_keeps_excitement_apart_when_asked(iemocap_root):
    corpus = iemocap(iemocap_root, emotions=("happy", "excited", "sad"), merge_excited=False)
    assert emotion_counts(corpus) == {"happy": 10, "excited": 10, "sad": 20}
    with pytest.raises(SerError, match="excited"):
        iemocap(iemocap_root, emotions=("happy", "excited"))


def test_iemocap_reads_the_other_labels_with_their_missing_wavs(iemocap_root):
    corpus = iemocap(iemocap_root, emotions=("frustrated", "sad"))
    assert {u.seconds for u in corpus.utterances if u.emotion == "frustrated"} == {0.0}


@pytest.mark.parametrize("level", ["..", "Session1", "Session1/dialog"])
def test_iemocap_is_found_from_a_root_one_level_off(iemocap_root, level):
    assert iemocap(iemocap_root / level).fingerprint() == iemocap(iemocap_root).fingerprint()


def test_iemocap_takes_flac_and_keeps_an_utterance_without_audio(tmp_path):
    write_iemocap(tmp_path, seconds=0.05)
    first, second = iemocap(tmp_path).utterances[:2]
    shutil.move(first.path, first.path.with_suffix(".flac"))
    second.path.unlink()
    corpus = by_id(iemocap(tmp_path))
    assert corpus[first.id].path.suffix == ".flac" and corpus[first.id].seconds > 0
    assert corpus[second.id].seconds == 0 and len(corpus) == 80


def test_iemocap_is_read_without_the_folders_of_the_release_and_by_scenario(tmp_path, iemocap_root):
    for session in iemocap_root.glob("Session*"):
        target = tmp_path / session.name
        shutil.copytree(session / "dialog" / "EmoEvaluation", target / "EmoEvaluation")
        (target / "wav").mkdir()
        for path in session.rglob("Ses*.wav"):
            shutil.copy(path, target / "wav")
    assert iemocap(tmp_path).fingerprint() == iemocap(iemocap_root).fingerprint()
    assert all(u.seconds > 0 for u in iemocap(tmp_path).utterances)
    flat = tmp_path / "flat"
    for path in [*tmp_path.glob("Session*/EmoEvaluation/*.txt"), *tmp_path.glob("Session*/wav/*.wav")]:
        (flat / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, flat / path.parent.name)
    assert iemocap(flat).fingerprint() == iemocap(iemocap_root).fingerprint()
    larger = write_iemocap(tmp_path / "larger", 4, seconds=0.02)
    parts = [iemocap(larger, scenario=scenario) for scenario in ("improvised", "scripted", None)]
    assert len(parts[0].utterances) + len(parts[1].utterances) == len(parts[2].utterances)
    assert all("_impro" in u.id for u in parts[0].utterances)
    with pytest.raises(SerError, match="scenario=acted"):
        iemocap(iemocap_root, scenario="acted")


@pytest.mark.parametrize("option, counts", [
    ("iemocap", {"neutral": 20, "happy": 20, "angry": 20, "sad": 20}),
    ("iemocap data.merge_excited=false", {"neutral": 20, "happy": 10, "angry": 20, "sad": 20}),
    ("iemocap_5", {"neutral": 20, "happy": 20, "angry": 20, "sad": 20, "frustrated": 20}),
    ("iemocap_6", {"neutral": 20, "happy": 10, "excited": 10, "angry": 20, "sad": 20, "frustrated": 20}),
])  # fmt: skip
def test_iemocap_presets(tmp_path, option, counts):
    root = fake_corpora.write_iemocap_6(tmp_path, seconds=0.02)
    corpus = instantiate(compose_config([*f"data={option}".split(), f"data.root={root}"]), "data")
    audible = Counter(u.emotion for u in corpus.utterances if u.seconds)
    assert audible == counts


def test_iemocap_refuses_a_repeated_utterance(tmp_path):
    labels = write_iemocap(tmp_path, seconds=0.02) / "Session1/dialog/EmoEvaluation"
    shutil.copy(labels / "Ses01F_impro05a.txt", labels / "Ses01F_impro05a copy.txt")
    with pytest.raises(SerError, match="Ses01F_impro05a_"):
        iemocap(tmp_path)


def test_iemocap_has_the_published_counts(tmp_path):
    index = SHARED / "iemocap_index.csv"
    if not index.is_file():
        pytest.skip(f"{index} is not there: the list of the 5,531 standard utterances")
    with index.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    corpus = iemocap(write_iemocap(tmp_path, seconds=0.001, rows=rows))
    assert len(corpus.utterances) == 5531
    assert emotion_counts(corpus) == {"neutral": 1708, "happy": 1636, "angry": 1103, "sad": 1084}
    assert Counter(u.speaker for u in corpus.utterances) == Counter(row["speaker"] for row in rows)
    assert {u.id: (u.speaker, u.session) for u in corpus.utterances} == {
        row["utterance"]: (row["speaker"], int(row["session"])) for row in rows
    }


def test_ravdess_has_its_counts_groups_and_genders(ravdess_root):
    corpus = ravdess(ravdess_root)
    assert corpus.emotions == ("neutral", "happy", "sad", "angry")
    assert emotion_counts(corpus) == {"neutral": 96, "happy": 192, "sad": 192, "angry": 192}
    assert {u.speaker: u.session for u in corpus.utterances} == {
        f"Actor_{actor:02d}": (actor + 3) // 4 for actor in range(1, 25)
    }
    assert all(u.gender == ("F" if int(u.speaker[-2:]) % 2 == 0 else "M") for u in corpus.utterances)
    everything = ravdess(
        ravdess_root, emotions=("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    )
    assert len(everything.utterances) == 1440


def test_ravdess_is_found_in_its_zip_layout_and_reads_flac(tmp_path):
    write_ravdess(tmp_path / "Audio_Speech_Actors_01-24", actors=4, seconds=0.02, suffix=".flac")
    inside = tmp_path / "Audio_Speech_Actors_01-24" / "Actor_01"
    assert ravdess(tmp_path).fingerprint() == ravdess(inside).fingerprint()
    first = ravdess(tmp_path).utterances[0]
    assert first.path.suffix == ".flac" and read_audio(first.path).shape == (320,)


def test_ravdess_counts_a_recording_with_two_formats_once(tmp_path):
    write_ravdess(tmp_path, actors=1, seconds=0.02)
    before = ravdess(tmp_path)
    write_ravdess(tmp_path, actors=1, seconds=0.02, suffix=".flac")
    assert ravdess(tmp_path) == before


def test_the_true_ravdess_has_672_recordings_in_six_groups():
    root = SHARED / "data" / "ravdess"
    if not root.is_dir():
        pytest.skip(f"{root} is not there: the RAVDESS speech recordings")
    corpus = ravdess(root)
    assert emotion_counts(corpus) == {"neutral": 96, "happy": 192, "sad": 192, "angry": 192}
    assert Counter(u.session for u in corpus.utterances) == dict.fromkeys(range(1, 7), 112)
    assert all(2 < u.seconds < 6 for u in corpus.utterances)


def test_ravdess_is_read_beside_songs_flat_nested_and_copied(tmp_path):
    expected = ravdess(write_ravdess(tmp_path / "plain", actors=2, seconds=0.02)).fingerprint()
    both = tmp_path / "both"
    write_ravdess(both / "Audio_Speech_Actors_01-24", actors=2, seconds=0.02)
    songs = both / "Audio_Song_Actors_01-24" / "Actor_01"
    songs.mkdir(parents=True)
    for path in (both / "Audio_Speech_Actors_01-24" / "Actor_01").glob("03-01-*.wav"):
        shutil.copy(path, songs / path.name.replace("03-01", "03-02"))
        shutil.copy(path, path.with_name(f"{path.stem} (1).wav"))
    shutil.copytree(both / "Audio_Speech_Actors_01-24", both / "archive" / "audio_speech_actors_01-24")
    corpus = ravdess(both)
    assert corpus.fingerprint() == expected
    assert not any(" (1)" in u.path.name or "archive" in u.path.parts for u in corpus.utterances)
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "plain").glob("*/03-01*.wav"))):
        shutil.copy(path, flat / f"{path.stem}{' (1)' * (number % 2)}{('.WAV', '.Wav', '.wav')[number % 3]}")
    assert ravdess(flat).fingerprint() == expected


def test_map_and_speakers_choose_what_is_read(ravdess_root):
    corpus = ravdess(ravdess_root, map={"calm": "neutral"}, speakers="Actor_0[1-4]")
    assert emotion_counts(corpus)["neutral"] == 4 * (4 + 8) and len(corpus.speakers) == 4
    with pytest.raises(SerError, match=r"emotions \[sad\] were given"):
        ravdess(ravdess_root, emotions=("calm", "sad"), map={"calm": "neutral"})


def test_a_named_pipe_in_a_table_has_no_length_and_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    corpus = manifest(write_table(tmp_path, "path,emotion,speaker", "a.wav,angry,x", "b.wav,sad,y"))
    assert [u.seconds for u in corpus.utterances] == [0.0, 0.0]


def test_a_map_of_a_class_that_there_is_not_is_told(ravdess_root, tmp_path, caplog):
    with pytest.raises(SerError, match=r"data\.map names anger, which RAVDESS does not have, expected some of neutral"):
        ravdess(ravdess_root, map={"anger": "angry"})
    table = write_table(tmp_path, "path,emotion,speaker", "a.wav,Anger,x", "b.wav,sad,y")
    assert manifest(table, map={"anger": "angry", "hapiness": "happy", 7: "happy"}).emotions == ("angry", "sad")
    assert "no emotion is called hapiness, 7," in caplog.text and "anger" not in caplog.text


@pytest.mark.parametrize("name, speakers, women, counts", [
    ("crema_d", 91, 43, dict.fromkeys(("angry", "disgust", "fearful", "happy", "sad"), 1271) | {"neutral": 1087}),
    ("tess", 2, 2, dict.fromkeys(("angry", "disgust", "fearful", "happy", "neutral", "sad", "surprised"), 400)),
    ("savee", 4, 0, dict.fromkeys(("angry", "disgust", "fearful", "happy", "sad", "surprised"), 60) | {"neutral": 120}),
    ("casia", 4, 2, dict.fromkeys(("angry", "fearful", "happy", "neutral", "sad", "surprised"), 200)),
    ("esd", 20, 10, dict.fromkeys(("neutral", "angry", "happy", "sad", "surprised"), 7000)),
])  # fmt: skip
def test_corpora_of_names_have_their_published_counts(tmp_path, name, speakers, women, counts):
    getattr(fake_corpora, f"write_{name}")(tmp_path, most=None, seconds=None)
    corpus = named(name, tmp_path, tuple(counts))
    assert emotion_counts(corpus) == counts and len(corpus.speakers) == speakers
    genders = {u.speaker: u.gender for u in corpus.utterances}
    assert sum(gender == "F" for gender in genders.values()) == women
    of_speaker = {}
    for utterance in corpus.utterances:
        of_speaker.setdefault(utterance.speaker, set()).add(utterance.session)
    assert all(len(sessions) == 1 for sessions in of_speaker.values())
    assert len(corpus.sessions) == min(5, speakers)


def test_a_pattern_of_speakers_is_matched_with_the_names_that_results_show(tmp_path):
    fake_corpora.write_ravdess(tmp_path, actors=3, repetitions=1, seconds=0.1)
    emotions = ("neutral", "happy", "sad", "angry")
    assert named("ravdess", tmp_path, emotions, speakers="Actor_0[12]").speakers == ["Actor_01", "Actor_02"]
    with pytest.raises(SerError, match=r"speakers=0\[12\] matches no speaker, expected some such as Actor_0[123];"):
        named("ravdess", tmp_path, emotions, speakers="0[12]")


def test_esd_is_read_with_the_folders_of_its_parts_and_by_language(tmp_path):
    fake_corpora.write_esd(tmp_path / "plain", most=1, speakers=20)
    for path in (tmp_path / "plain").rglob("*.wav"):
        target = tmp_path / "parts" / path.parent.relative_to(tmp_path / "plain") / "evaluation" / path.name
        target.parent.mkdir(parents=True)
        shutil.copy(path, target)
    emotions = ("neutral", "angry", "happy", "sad", "surprised")
    corpus = named("esd", tmp_path / "plain", emotions)
    assert named("esd", tmp_path / "parts", emotions).fingerprint() == corpus.fingerprint()
    english = named("esd", tmp_path / "plain" / "0011", emotions, speakers="001[1-9]|0020")
    assert english.speakers == [f"{number:04d}" for number in range(11, 21)]


@pytest.mark.parametrize("name", ["ravdess", "emodb", "crema_d", "esd", "tess", "savee", "casia", "meld"])
def test_corpora_are_read_nested_doubled_in_capitals_and_beside_other_files(tmp_path, name):
    settings = {"ravdess": {"actors": 2}, "emodb": {"texts": 1}}.get(name, {})
    getattr(fake_corpora, f"write_{name}")(tmp_path / "plain", seconds=0.02, **settings)
    odd = tmp_path / "odd"
    for place in ("archive/Data set v1.0", "archive/copies/again"):
        shutil.copytree(tmp_path / "plain", odd / place)
    for number, path in enumerate(sorted(odd.rglob("*.wav"))):
        path.with_suffix(".txt").write_text("text")
        (path.parent / f"._{path.name}").write_bytes(b"macOS")
        if number % 2:
            path.rename(path.with_suffix(".WAV"))
        else:
            shutil.copy(path, path.with_name(f"{path.stem} (1).wav"))
    shutil.copy(next((tmp_path / "plain").rglob("*.wav")), odd / "noise.wav")
    plain, found = (instantiate(compose_config([f"data={name}", f"data.root={tmp_path / place}"]), "data")
                    for place in ("plain", "odd"))  # fmt: skip
    assert found.fingerprint() == plain.fingerprint() and all(u.seconds for u in found.utterances)


def test_paths_columns_and_emotions_need_not_be_ascii(tmp_path):
    for name in ("é (1)", "2"):
        write_voice(tmp_path / f"录音/{name}.wav", "王", "angry", 0.2, female=True)
    text = "文件;Who said it;Gefühl\né (1).wav;王;愤怒\n2.wav;Öz;高兴\n"
    (tmp_path / "表.csv").write_text(text, encoding="utf-8")
    columns = "data.columns={path: 文件, speaker: Who said it,emotion:Gefühl}"
    words = ["data=manifest", f"data.manifest={tmp_path}/表.csv", f"data.root={tmp_path}/录音", columns]
    for emotions in ("null", "[愤怒, '高兴']"):
        corpus = instantiate(compose_config([*words, f"data.emotions={emotions}"]), "data")
        assert {(u.speaker, u.emotion) for u in corpus.utterances} == {("王", "愤怒"), ("Öz", "高兴")}
    checked = ['paths.outputs="/张/ü"', "seed=1,2"]
    assert check_arguments(["-m", "paths.outputs=/张/ü", "seed=1,2"])[1:3] == checked
    assert checked[0] in expand(["variant=gru", "fold=1", "paths.outputs=/张/ü"])
    corpus = instantiate(compose_config([*words, "data.map={愤怒:angry, 高兴: 'very happy'}"]), "data")
    assert set(corpus.emotions) == {"angry", "very happy"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("data.root=/a b/ü, x", 'data.root="/a b/ü", x'),
        ('data.map={joy: 高兴, anger: "愤怒"}', 'data.map={joy: "高兴", anger: "愤怒"}'),
        ("data.map={高兴: joy}", "data.map='${oc.create:\"{高兴: joy}\"}'"),
        ("data.emotions=[中,'高',sad]", "data.emotions=[\"中\",'高',sad]"),
        ("data.root=${oc.env:HOME}/ü", "data.root=${oc.env:HOME}/ü"),
        ("fold=1", "fold=1"),
    ],
)
def test_what_is_not_ascii_is_quoted_once(word, expected):
    assert quoted(word) == expected
    assert quoted(expected) == expected


@pytest.mark.parametrize("name", ["msp_podcast", "nemo", "crema_d", "esd", "tess", "savee", "casia"])
def test_a_wrong_folder_of_any_corpus_names_data_root(tmp_path, name):
    with pytest.raises(SerError, match=r"set data\.root"):
        instantiate(compose_config([f"data={name}", f"data.root={tmp_path}"]), "data")


def test_meld_has_its_published_partitions(tmp_path):
    emotions = ("neutral", "happy", "sad", "angry", "surprised", "fearful", "disgust")
    corpus = meld(fake_corpora.write_meld(tmp_path, most=None), emotions)
    parts = Counter(u.partition for u in corpus.utterances)
    assert parts == {"train": 9989, "validation": 1109, "test": 2610}
    assert emotion_counts(corpus)["happy"] == 1743 + 163 + 402
    found = meld(fake_corpora.write_meld(tmp_path / "sound"), emotions)
    assert all(u.seconds == pytest.approx(0.2) for u in found.utterances)
    assert {u.path.parent.name for u in found.utterances if u.partition == "test"} == {"output_repeated_splits_test"}


def test_videos_of_meld_are_told_to_be_converted(tmp_path):
    """As the release is; the test folder has other cuts of some, under names of their own, and twins of macOS."""
    root = fake_corpora.write_meld(tmp_path, most=1)
    for path in list(root.rglob("*.wav")):
        path.with_name(f"final_videos_test{path.stem}.mp4").write_bytes(b"other")
        path.with_name(f"._{path.stem}.mp4").write_bytes(fake_corpora.APPLE_DOUBLE)
        path.rename(path.with_suffix(".mp4"))
    for utterance in meld(root).utterances:
        assert utterance.path.with_suffix(".mp4").is_file() and not utterance.seconds
        with pytest.raises(SerError, match=r"no such file, but dia0_utt\d\.mp4, which must be converted: ffmpeg"):
            read_audio(utterance.path)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "cannot be read"),
        ('a,b\n"x', "cannot be read"),
        ("Speaker,Emotion,Dialogue_ID\nJoey,joy,1\n", "lacks the column Utterance_ID"),
        ("Speaker,Emotion,Dialogue_ID,Utterance_ID\nJoey,rage,1,1\n", "line 2: the emotion is 'rage'"),
        ("Speaker,Emotion,Dialogue_ID,Utterance_ID\nJoey,,1,1\n", "line 2: the emotion is ''"),
    ],
)
def test_a_damaged_table_of_meld_is_named(tmp_path, content, part):
    fake_corpora.write_meld(tmp_path)
    table = next(tmp_path.rglob("test_sent_emo.csv"))
    table.write_text(content)
    with pytest.raises(SerError, match=part) as told:
        meld(tmp_path)
    assert str(table) in str(told.value)


def test_the_unknown_speaker_of_msp_podcast_is_of_both_genders(tmp_path):
    rows = ["a,N,Unknown,Male,Train", "b,A,Unknown,Female,Train", "c,A,Unknown,Unknown,Test1", "d,N,1,Female,Test1"]
    (tmp_path / "Labels").mkdir()
    (tmp_path / "Labels/labels_consensus.csv").write_text(
        "\n".join(["FileName,EmoClass,SpkrID,Gender,Split_Set", *rows])
    )
    settings = compose_config(["data=msp_podcast", f"data.root={tmp_path}", "data.emotions=[neutral,angry]"])
    corpus = instantiate(settings, "data")
    assert {u.gender for u in corpus.utterances if u.speaker == "Unknown"} == {""}


def test_rows_of_parts_that_are_not_used_may_lack_labels_and_older_names_of_msp_podcast_are_told(tmp_path):
    """Test3 is published without labels and speakers; earlier releases misspell the table."""
    root = fake_corpora.write_msp_podcast(tmp_path, seconds=0.02)
    table = root / "Labels" / "labels_consensus.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    rows = [[row[0], "", "", "", "", "", "", "Test3"] if row[-1] == "Test3" else row for row in rows]
    text = "\n".join(",".join(row) for row in rows) + "\n"
    table.write_text(text.replace("Development", "Validation"))
    corpus = instantiate(compose_config(["data=msp_podcast", f"data.root={root}"]), "data")
    assert Counter(u.partition for u in corpus.utterances) == {"train": 8, "validation": 8, "test": 8}
    table.write_text(text.replace("Test1", "Train"))
    with pytest.raises(SerError, match=r"leaves the test part empty.*data\.partitions"):
        GivenProtocol().split(instantiate(compose_config(["data=msp_podcast", f"data.root={root}"]), "data"), 1, 0)
    table.rename(table.with_name("labels_concensus.csv"))
    with pytest.raises(SerError, match=r"does not exist.*data\.manifest, if it is one of labels_concensus\.csv"):
        instantiate(compose_config(["data=msp_podcast", f"data.root={root}"]), "data")


@pytest.mark.parametrize("name", ["savee", "esd"])
def test_a_corpus_that_lies_there_in_both_its_layouts_counts_once(tmp_path, name):
    getattr(fake_corpora, f"write_{name}")(tmp_path, seconds=0.02, speakers=20)
    words = [f"data={name}", f"data.root={tmp_path}"]
    plain = instantiate(compose_config(words), "data")
    for path in sorted(tmp_path.rglob("*.wav")):
        place = (
            path.parent / "train" / path.name if name == "esd" else tmp_path / "ALL" / f"{path.parent.name}_{path.name}"
        )
        place.parent.mkdir(exist_ok=True)
        shutil.copy(path, place)
    assert instantiate(compose_config(words), "data").fingerprint() == plain.fingerprint()


def test_a_corpus_of_one_emotion_is_named_so(tmp_path):
    (tmp_path / "a.csv").write_text("path,emotion,speaker\na.wav,sad,x\nb.wav,sad,y\n")
    with pytest.raises(SerError, match=r"has one emotion only \(sad\)"):
        manifest(tmp_path / "a.csv")


def test_msp_podcast_and_nemo_are_tables(tmp_path):
    fake_corpora.write_msp_podcast(tmp_path / "msp")
    corpus = instantiate(compose_config(["data=msp_podcast", f"data.root={tmp_path}/msp"]), "data")
    assert Counter(u.partition for u in corpus.utterances) == {"train": 8, "validation": 8, "test": 8}
    assert corpus.name == "msp_podcast" and {u.gender for u in corpus.utterances} == {"F", "M"}
    words = ["data=msp_podcast", f"data.root={tmp_path}/msp"]
    other = "data.partitions={Train: train, Development: validation, Test2: test}"  # in place of Test1
    corpus = instantiate(compose_config([*words, other, "++data.map={O: happy}"]), "data")
    assert {u.speaker for u in corpus.utterances if u.partition == "test"} == {"30", "31"}
    assert Counter(u.emotion for u in corpus.utterances if u.partition == "test")["happy"] == 4
    with pytest.raises(SerError, match=r"with O, .*write \+\+data\.map="):
        compose_config([*words, "data.map={O: happy}"])
    fake_corpora.write_nemo(tmp_path / "nemo", rows=4481, seconds=None)
    corpus = instantiate(compose_config(["data=nemo", f"data.root={tmp_path}/nemo"]), "data")
    assert len(corpus.utterances) == 4481 and len(corpus.speakers) == 9 and len(corpus.emotions) == 6
    assert corpus.utterances[0].path.parent == tmp_path / "nemo" / "samples"


def test_emodb_reads_seven_emotions_in_five_mixed_pairs(emodb_root):
    corpus = emodb(emodb_root)
    assert set(emotion_counts(corpus).values()) == {20} and len(corpus.emotions) == 7
    pairs = {session: {u.speaker for u in corpus.utterances if u.session == session} for session in corpus.sessions}
    assert pairs == {1: {"03", "08"}, 2: {"10", "09"}, 3: {"11", "13"}, 4: {"12", "14"}, 5: {"15", "16"}}
    assert {u.speaker for u in corpus.utterances if u.gender == "M"} == {"03", "10", "11", "12", "15"}
    assert by_id(corpus)["03a01Wa"].emotion == "angry" and by_id(corpus)["16a02Ta"].emotion == "sad"
    assert emodb(emodb_root / "wav") == corpus == emodb(emodb_root.parent / emodb_root.name)


def test_emodb_has_its_published_counts(tmp_path):
    """535 recordings; ten speakers, ten sentences, versions a, b, c and so on."""
    counts = {"W": 127, "L": 81, "E": 46, "A": 69, "F": 71, "T": 62, "N": 79}
    speakers = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")
    for letter, count in counts.items():
        for number in range(count):
            sentence, version = f"{'ab'[number // 10 % 2]}{number // 20 % 5 + 1:02d}", "abcdefg"[number // 100]
            (tmp_path / f"{speakers[number % 10]}{sentence}{letter}{version}.wav").touch()
    corpus = emodb(tmp_path)
    assert len(corpus.utterances) == sum(counts.values()) == 535 and len(corpus.speakers) == 10
    names = ("angry", "bored", "disgust", "fearful", "happy", "sad", "neutral")
    assert emotion_counts(corpus) == dict(zip(names, counts.values(), strict=True))
    assert len(corpus.sessions) == 5


def test_a_class_that_is_renamed_need_not_be_taken_off_the_list(emodb_root):
    """``data=emodb data.map="{bored: neutral}"``: the default classes still name bored."""
    corpus = emodb(emodb_root, map={"bored": "neutral"})
    assert corpus.emotions == ("angry", "disgust", "fearful", "happy", "sad", "neutral")
    assert emotion_counts(corpus)["neutral"] == sum(u.path.stem[5] in "NL" for u in corpus.utterances)


def test_emodb_2_is_read_without_its_laryngograms(tmp_path):
    """Version 2 (github.com/audeering/emodb) has the same names in wav/ and laryngo/."""
    emotions = ("happy", "neutral")
    for name, emotion in (("03a01Fa", "happy"), ("03a01Nc", "neutral"), ("08b10F", "happy"), ("08a01Na", "neutral")):
        for place in ("wav", "laryngo"):
            write_voice(tmp_path / "emodb" / place / f"{name}.wav", name[:2], emotion, 0.1, True)
    corpus = emodb(tmp_path / "emodb", emotions)
    assert [u.path.parent.name for u in corpus.utterances] == ["wav"] * 4
    assert emotion_counts(corpus) == {"happy": 2, "neutral": 2}
    speakers, versions, texts = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16"), "abcdefgh", range(1, 6)
    names = [f"{who}{ab}{text:02d}{emotion}{version}" for version in versions for ab in "ab" for text in texts
             for emotion in "WLEAFTN" for who in speakers]  # fmt: skip
    for place in ("wav", "laryngo"):
        (tmp_path / "whole" / place).mkdir(parents=True)
        for name in names[:816]:  # 535 of version 1 and 281 that fewer listeners recognised
            (tmp_path / "whole" / place / f"{name}.wav").touch()
    assert len(emodb(tmp_path / "whole").utterances) == 816
    with pytest.raises(SerError, match="holds no recording"):
        emodb(tmp_path / "emodb" / "laryngo", emotions)


def test_emodb_refuses_a_speaker_that_is_not_its(tmp_path):
    write_emodb(tmp_path, texts=1, seconds=0.02)
    write_voice(tmp_path / "wav" / "99a01Fa.wav", "99", "happy", 0.02, female=False)
    with pytest.raises(SerError, match="99a01Fa"):
        emodb(tmp_path)


def write_table(folder, *lines):
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return folder / "table.csv"


@pytest.mark.parametrize(
    "women, men",
    [("female", "Male"), ("weiblich", "ma\u0308nnlich"), ("Frau", "Mann"), ("w", "M"), ("féminin", "masculin"),
     ("mujer", "hombre"), ("女", "男"), ("F", "H")],
)  # fmt: skip
def test_genders_may_be_told_in_several_languages(tmp_path, women, men):
    table = write_table(tmp_path, "path,emotion,speaker,sex", f"a.wav,sad,a,{women}", f"b.wav,happy,b,{men}")
    assert [u.gender for u in manifest(table).utterances] == ["F", "M"]


def test_a_manifest_without_sessions_deals_speakers_by_gender(tmp_path):
    corpus = manifest(write_manifest(tmp_path, speakers=10, seconds=0.02))
    assert corpus.emotions == ("angry", "happy", "neutral", "sad") and len(corpus.utterances) == 80
    for session in corpus.sessions:
        genders = Counter({u.speaker: u.gender for u in corpus.utterances if u.session == session}.values())
        assert genders == {"F": 1, "M": 1}
    assert corpus.sessions == [1, 2, 3, 4, 5]
    assert manifest(write_manifest(tmp_path / "few", speakers=3, seconds=0.02)).sessions == [1, 2, 3]


def test_dealing_balances_the_number_of_utterances(tmp_path):
    counts = {"a": 8, "b": 7, "c": 2, "d": 2, "e": 1, "f": 1, "g": 1}
    lines = [
        f"{speaker}{n}.wav,{'sad' if n % 2 else 'happy'},{speaker}" for speaker, k in counts.items() for n in range(k)
    ]
    corpus = manifest(write_table(tmp_path, "path,emotion,speaker", *lines))
    groups = {u.speaker: u.session for u in corpus.utterances}
    assert len(set(groups.values())) == 5 and groups["a"] != groups["b"]
    assert all(groups[speaker] not in (groups["a"], groups["b"]) for speaker in "cdefg")


def test_a_manifest_numbers_named_sessions_in_natural_order(tmp_path):
    table = write_table(
        tmp_path,
        "path, Emotion, speaker, session",
        "a.wav, Happy, x, day10",
        "b.wav, SAD, y, day2",
        "c.wav, sad, z, day1",
    )
    assert {u.speaker: u.session for u in manifest(table).utterances} == {"z": 1, "y": 2, "x": 3}
    numbered = write_table(tmp_path, "path,emotion,speaker,session", "a.wav,happy,x,7", "b.wav,sad,y,2")
    assert manifest(numbered).sessions == [2, 7]


def test_a_manifest_cuts_stretches_out_of_one_file(tmp_path):
    write_voice(tmp_path / "audio" / "talk.wav", "x", "happy", 1.0, female=True)
    table = write_table(
        tmp_path,
        "path,emotion,speaker,gender,start,end",
        "talk.wav,happy,x,female,0,0.25",
        "talk.wav,sad,x,f,0.25,",
        "talk.wav,sad,y,M,0.5,3",
    )
    corpus = manifest(table, root=tmp_path / "audio")
    assert {u.id: u.seconds for u in corpus.utterances} == {"talk_0.000": 0.25, "talk_0.250": 0.75, "talk_0.500": 0.5}
    second = by_id(corpus)["talk_0.250"]
    assert len(read_audio(second.path, second.start, second.end)) == 12000 and second.gender == "F"


def test_files_without_suffix_and_files_that_differ_in_it_alone_are_told_apart(tmp_path):
    for name in ("plain", "other.wav", "same.wav", "same.flac"):
        (tmp_path / name).write_bytes(b"")
    rows = ["plain,happy,a", "other,sad,a", "same.wav,happy,b", "same.flac,sad,b"]
    (tmp_path / "m.csv").write_text("path,emotion,speaker\n" + "\n".join(rows) + "\n")
    found = {utterance.id: utterance.path.name for utterance in manifest(tmp_path / "m.csv").utterances}
    assert found == {"plain.wav": "plain", "other.wav": "other.wav", "same.wav": "same.wav", "same.flac": "same.flac"}


def test_a_manifest_selects_emotions_and_names_ids_by_path_where_names_repeat(tmp_path):
    table = write_table(
        tmp_path, "path,emotion,speaker,notes", "x/1.wav,happy,x,", "y/1.wav,sad,y,hm", "y/2.wav,dull,y,"
    )
    assert list(by_id(manifest(table, emotions=("sad", "happy")))) == ["x/1", "y/1"]
    assert manifest(table, emotions=("sad", "happy")).emotions == ("sad", "happy")


@pytest.mark.parametrize(
    "header, row, reason",
    [
        ("path,emotion", "a.wav,sad", "not speaker; add .* speaker as spk"),
        ("path,emotion,speaker", "a.wav,,x", "line 3, has no emotion"),
        ("path,emotion,speaker", "a.wav,sa\x1b[31md,x", "line 3, has control characters in emotion"),
        ("path,emotion,speaker,gender", "a.wav,sad,x,tall", "line 3, has a gender.*tall"),
        ("path,emotion,speaker,start", "a.wav,sad,x,soon", "line 3, has a start"),
        ("path,emotion,speaker,start,end", "a.wav,sad,x,2,1", "line 3, has an end"),
        ("path,emotion,speaker,session", "a.wav,sad,x,", "line 3, has no session"),
        ("path,emotion,speaker,session", "a.wav,sad,x,0", "line 3, has a session"),
        ("path,emotion,speaker,id", "a.wav,sad,x,one", "more than once.*one"),
        ("path,emotion,speaker,gender", "a.wav,sad,v,m", "more than one gender"),
        ("path,emotion,speaker", "a.wav,happy,x", "one emotion only"),
        ("path,emotion,speaker,partition", "a.wav,happy,x,third", r"line 3, has a partition.*data\.partitions"),
        ("path,emotion,speaker,seconds", "a.wav,happy,x,-1", "line 3, has a number of seconds"),
    ],
)
def test_wrong_manifests_are_refused_by_line(tmp_path, header, row, reason):
    good = {
        "path": "g.wav",
        "emotion": "happy",
        "speaker": "v",
        "gender": "F",
        "start": "0",
        "end": "1",
        "session": "1",
        "id": "one",
        "partition": "train",
        "seconds": "1",
    }
    table = write_table(tmp_path, header, ",".join(good[column] for column in header.split(",")), row)
    with pytest.raises(SerError, match=reason):
        manifest(table)


@pytest.mark.parametrize("content", [b"", b"path,emotion,speaker\n", b"path,emotion,speaker\nb\xfc.wav,sad,x\n",
                                     b"PK\3\4" + bytes(9999)])  # fmt: skip
def test_a_manifest_that_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(SerError, match=r"table\.csv") as caught:
        manifest(tmp_path / "table.csv")
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "text, reason",
    [
        ("path,emotion,speaker\na.wav,sad,x,y\nb.wav,happy,v,w\n", "line 2, has 4 values, but the header names 3"),
        ("path,emotion,speaker\n\na.wav,sad,x\nb.wav,happy,v,w\n", "line 4, has 4 values"),
        ("path,emotion,speaker\n\n\na.wav,sad,x\nb.wav,,v\n", "line 5, has no emotion"),
        ('path,emotion,speaker\na.wav,sad,x\nb.wav,"happy,v\nc.wav,sad,v\n', "line 3, has a quote that is not closed"),
        ('path,emotion,speaker\na.wav,"sad,x\nb.wav,"happy,v\n', "line 2, has a quote that is not closed"),
        ('path,emotion,speaker\na.wav,sad,"x\nb.wav,happy,v"\nc.wav,happy,v\n', "line 2, has control .* speaker"),
        ('path,text,emotion,speaker\na.wav,"one\ntwo",sad,x\nb.wav,,,v\n', "line 4, has no emotion"),
        ("path,emotion,speaker,Emotion\na.wav,sad,x,happy\n", "several columns emotion"),
    ],
)
def test_damaged_tables_are_refused_by_line(tmp_path, text, reason):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(SerError, match=rf"table\.csv.*{reason}") as caught:
        manifest(tmp_path / "table.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "path,emotion,speaker\na.wav,sad,x\nb.wav,happy,v\n",
        "\n path ,emotion,speaker,,\na.wav,sad,x,,\n,,,,\n\nb.wav,happy,v\n,,,,",
        "sep=;\npath;emotion;speaker\na.wav;sad;x\nb.wav;happy;v\n",
        "path|emotion|speaker|text\na.wav|sad|x|one, two\nb.wav|happy|v\n",
        'id,path,emotion,speaker,text\r\na,"a.wav",sad,x,"one\n""two"""\r\nb,b.wav,happy,v,\r\n',
        ',PATH,"emotion" ,"speaker"  \r0, "a.wav" ,"sad" , "x" \r1,"b.wav", "happy","v"\r',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_as_programs_write_them_are_read(tmp_path, recwarn, text, encoding):
    (tmp_path / "table.csv").write_text(text, encoding, newline="")
    corpus = manifest(tmp_path / "table.csv")
    assert [(u.id, u.path.name, u.emotion, u.speaker) for u in sorted(corpus.utterances, key=lambda u: u.id)] == [
        ("a", "a.wav", "sad", "x"),
        ("b", "b.wav", "happy", "v"),
    ]
    assert not recwarn.list


def test_speakers_that_differ_in_capitals_only_are_told(tmp_path, caplog):
    manifest(write_table(tmp_path, "path,emotion,speaker", "a.wav,sad,Ann", "b.wav,happy,ann", "c.wav,happy,Bob"))
    assert "count as several: Ann, ann" in caplog.text and "Bob" not in caplog.text


def test_classes_that_are_spellings_of_one_emotion_are_told(tmp_path, caplog):
    table = write_table(tmp_path, "path,emotion,speaker", "1.wav,anger,a", "2.wav,angry,b", "3.wav,sad,b")
    assert manifest(table).emotions == ("anger", "angry", "sad")
    assert "anger, angry count as several classes" in caplog.text
    assert manifest(table, map={"anger": "angry"}).emotions == ("angry", "sad")


@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_a_manifest_is_read_with_other_separators_names_and_paths(tmp_path, monkeypatch, separator):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_voice(tmp_path / "my audio" / "a b.wav", "x", "happy", 0.1, female=True)
    rows = ["FileName,Label,Spk,Sex,Split,dataset", "~/my audio/a b.wav,Anger,x,female,Train,one",
            "my audio\\a b.wav,happiness,y,Male,dev,two", "my audio/a b,happy,z,,TEST,two"]  # fmt: skip
    table = write_table(tmp_path, *(row.replace(",", separator) for row in rows))
    table.write_text(table.read_text(encoding="utf-8-sig").replace("a b,happy", "a b,happy"), encoding="utf-8")
    with pytest.raises(SerError, match="occur more than once"):
        manifest(table)
    numbered = [row + (f",u{n}" if n else ",key") for n, row in enumerate(rows)]
    table = write_table(tmp_path, *(row.replace(",", separator) for row in numbered))
    corpus = manifest(table, map={"anger": "angry", "Happiness": "happy"})
    assert corpus.emotions == ("angry", "happy") and emotion_counts(corpus) == {"angry": 1, "happy": 2}
    assert all(u.seconds == pytest.approx(0.1) for u in corpus.utterances)
    found = by_id(corpus)
    assert [found[f"u{n}"].partition for n in (1, 2, 3)] == ["train", "validation", "test"]
    assert [found[f"u{n}"].corpus for n in (1, 2, 3)] == ["one", "two", "two"]


def test_a_manifest_may_have_columns_of_any_name(tmp_path):
    table = write_table(tmp_path, "Clip,emo1,emo2,Spkr_Code,speaker", "a.wav,sad,happy,x,1", "b.wav,happy,sad,y,1")
    own = {"path": "clip", "emotion": "emo2", "speaker": "Spkr_Code"}  # before a column of the usual name
    found = by_id(manifest(table, columns=own))
    assert {name: (u.emotion, u.speaker) for name, u in found.items()} == {"a": ("happy", "x"), "b": ("sad", "y")}
    with pytest.raises(SerError, match=r"names emo3, but .* has the columns clip, emo1, emo2, spkr_code, speaker"):
        manifest(table, columns=own | {"emotion": "emo3"})
    with pytest.raises(SerError, match="names spkr, expected one of path, emotion, speaker"):
        manifest(table, columns={"spkr": "Spkr_Code"})


def test_a_manifest_of_frames_needs_no_audio_and_lengths_need_no_headers(tmp_path):
    table = write_table(tmp_path, "frames,emotion,speaker,duration", "x/1.npy,sad,a,1.5", "x/2.npy,happy,b,2")
    corpus = manifest(table)
    assert {u.id: (u.frames, u.seconds) for u in corpus.utterances} == {
        "1": (Path("x/1.npy"), 1.5),
        "2": (Path("x/2.npy"), 2.0),
    }


@pytest.mark.parametrize("parser", [iemocap, ravdess, emodb, meld, manifest])
def test_a_missing_root_is_refused_with_the_remedy(parser, tmp_path):
    for root in (None, "", tmp_path / "absent"):
        with pytest.raises(SerError, match=r"data\.(root|manifest)="):
            parser(root)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX systems only")
def test_names_that_are_not_utf8_give_ids_and_speakers_that_can_be_written(tmp_path, caplog):
    caplog.set_level("INFO")
    for name in (b"/ren\xe9/sad/a\xe9.wav", "/zoë/happy/é.wav".encode()):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + name))
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
    found = folder(tmp_path).utterances
    assert {utterance.speaker for utterance in found} == {"ren\\xe9", "zoë"}
    assert caplog.text.encode()  # as a screen does
    assert all(utterance.id.encode() and utterance.path.is_file() for utterance in found)


def test_recordings_that_must_be_converted_first_are_told(tmp_path, caplog):
    for name in ("anna/sad/a.wav", "anna/happy/b.wav", "anna/happy/b.m4a", "anna/sad/c.M4A", "anna/sad/d.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert len(folder(tmp_path).utterances) == 2
    assert "2 files such as anna/sad/c.M4A cannot be read; convert them" in caplog.text


@pytest.mark.parametrize("parser", [iemocap, ravdess, emodb])
def test_a_folder_without_the_corpus_is_refused_with_what_was_expected(parser, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SerError, match="expected"):
        parser(tmp_path / "empty")


def test_unknown_single_and_repeated_emotions_are_refused(ravdess_root, emodb_root, tmp_path):
    with pytest.raises(SerError, match="no emotion joy; choose"):
        ravdess(ravdess_root, emotions=("joy", "sad"))
    with pytest.raises(SerError, match="at least two"):
        emodb(emodb_root, emotions=("sad", "sad"))
    with pytest.raises(SerError, match="no emotion fearful"):
        manifest(write_manifest(tmp_path, seconds=0.02), emotions=("sad", "fearful"))


def test_an_emotion_without_recordings_is_refused(tmp_path):
    rows = [row for row in iemocap_rows() if row["label"] != "sad"]
    with pytest.raises(SerError, match="labelled sad"):
        iemocap(write_iemocap(tmp_path, seconds=0.02, rows=rows))
