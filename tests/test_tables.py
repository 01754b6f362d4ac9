import numpy as np
import pandas as pd
import pytest
from fake_runs import fake_embeddings, fake_table

from ser.errors import SerError
from ser.evaluation.predictions import (
    emotions_of,
    probabilities,
    read_embeddings,
    read_history,
    read_predictions,
    write_embeddings,
    write_predictions,
)


@pytest.fixture
def table():
    return fake_table(speakers=4, utterances=8)


def one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_table_survives_writing_and_reading(tmp_path, table):
    write_predictions(tmp_path / "predictions.csv", table)
    read = read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read, table, check_exact=True, check_dtype=False)
    assert list(read.columns[:7]) == ["id", "session", "speaker", "gender", "seconds", "emotion", "predicted"]
    assert read["speaker"].iloc[0] == "01"  # text, not the number 1
    assert emotions_of(read) == ["neutral", "happy", "sad", "angry"]
    np.testing.assert_array_equal(probabilities(read), table.filter(like="p_").to_numpy())


def test_tables_of_other_tools_need_few_columns(tmp_path):
    (tmp_path / "other.csv").write_text("p_None,p_sad,note,id,speaker,emotion,predicted\n0.25,0.75,x,1,NA,None,sad\n")
    read = read_predictions(tmp_path / "other.csv")
    row = read.iloc[0]
    assert (row["id"], row["speaker"], row["emotion"], row["predicted"]) == ("1", "NA", "None", "sad")
    assert (row["session"], row["gender"], row["seconds"]) == (1, "", 0.0)
    assert emotions_of(read) == ["None", "sad"]
    assert "note" not in read.columns


def test_sessions_may_be_names_and_genders_words(tmp_path, table):
    table.assign(session="Ses" + table["session"].astype(str), gender="female").to_csv(tmp_path / "t.csv", index=False)
    read = read_predictions(tmp_path / "t.csv")
    assert read["session"].iloc[0] == "Ses1"
    assert set(read["gender"]) == {"F"}


BAD = {
    "lacks the column": lambda t: t.drop(columns=["speaker", "predicted"]),
    "p_<emotion>": lambda t: t.drop(columns=[c for c in t.columns if c.startswith("p_")]),
    "unknown label(s) 'bored' in emotion": lambda t: t.assign(emotion=["bored", *t["emotion"].iloc[1:]]),
    "unknown label(s) 'joy' in predicted": lambda t: t.assign(predicted=["joy", *t["predicted"].iloc[1:]]),
    "not numbers": lambda t: t.assign(p_sad=[float("nan"), *t["p_sad"].iloc[1:]]),
    "probabilities that are not": lambda t: t.assign(p_sad=["much", *t["p_sad"].iloc[1:]]),
    "do not sum to one": lambda t: t.assign(p_sad=t["p_sad"] / 2),
    "outside 0 to 1": lambda t: t.assign(p_sad=t["p_sad"] + 1, p_happy=t["p_happy"] - 1),
    "more than once": lambda t: t.assign(id=[t["id"].iloc[1], *t["id"].iloc[1:]]),
    "without a value in speaker": lambda t: t.assign(speaker=["", *t["speaker"].iloc[1:]]),
    "no rows": lambda t: t.iloc[:0],
    "seconds": lambda t: t.assign(seconds=-1.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_tables_are_named_in_one_sentence(tmp_path, table, message):
    path = tmp_path / "predictions.csv"
    BAD[message](table).to_csv(path, index=False)
    with pytest.raises(SerError) as error:
        read_predictions(path)
    assert message in one_sentence(error)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("classes", [4, 100])
@pytest.mark.filterwarnings("error::pandas.errors.PerformanceWarning")  # of a table in fragments
def test_four_decimals_are_enough_and_a_wrong_sum_is_not(tmp_path, classes):
    table = fake_table(4, 100, emotions=tuple(f"c{number}" for number in range(classes)))
    columns = [name for name in table if name.startswith("p_")]
    exact = np.full(classes, 1 / classes + 5.1e-5)  # all but the last are rounded up
    exact[-1] = 1 - exact[:-1].sum()
    rounded = table.assign(**table[columns].round(4))
    rounded.loc[0, columns] = exact.round(4)
    write_predictions(tmp_path / "t.csv", rounded)
    assert len(read_predictions(tmp_path / "t.csv")) == len(table)
    rounded.loc[0, columns] *= 0.9
    with pytest.raises(SerError, match=r"1 row\(s\) with probabilities that do not sum to one"):
        write_predictions(tmp_path / "t.csv", rounded)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage\x00", b'id,"open\n1,2\n'])
def test_files_that_are_no_table(tmp_path, content):
    (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(SerError) as error:
        read_predictions(tmp_path / "predictions.csv")
    one_sentence(error)


def test_an_absent_table_is_named(tmp_path):
    with pytest.raises(SerError, match=r"there is no predictions table .*absent\.csv"):
        read_predictions(tmp_path / "absent.csv")


def test_a_bad_table_does_not_replace_a_good_one(tmp_path, table):
    path = tmp_path / "predictions.csv"
    write_predictions(path, table)
    before = path.read_bytes()
    with pytest.raises(SerError):
        write_predictions(path, table.assign(p_sad=0.0))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.csv"]


def test_embeddings_belong_to_their_rows_and_are_never_unpickled(tmp_path, table):
    features = fake_embeddings(table)
    write_embeddings(tmp_path / "e.npy", features)
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.npy", len(table)), features)
    with pytest.raises(SerError, match="rows"):
        read_embeddings(tmp_path / "e.npy", len(table) + 1)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    write_embeddings(tmp_path / "nan.npy", np.full((2, 3), np.nan))
    (tmp_path / "text.npy").write_text("no array")
    for name, rows in (("pickled.npy", 1), ("nan.npy", 2), ("text.npy", 1), ("absent.npy", 1)):
        with pytest.raises(SerError) as error:
            read_embeddings(tmp_path / name, rows)
        one_sentence(error)


def test_history_needs_epochs(tmp_path):
    (tmp_path / "h.csv").write_text("epoch,val/uar\n0,0.25\n1,\n")
    history = read_history(tmp_path / "h.csv")
    assert history["val/uar"].iloc[0] == 0.25
    assert np.isnan(history["val/uar"].iloc[1])
    (tmp_path / "bad.csv").write_text("step,loss\n0,1\n")
    with pytest.raises(SerError, match="epoch column"):
        read_history(tmp_path / "bad.csv")
