import pytest
from matplotlib.lines import Line2D

from ser.emotions import EMOTIONS, chinese_name, find_emotion, looks


@pytest.mark.parametrize("field", ["name", "color", "sign", "marker", "dash", "stripes", "chinese"])
def test_no_two_emotions_share_a_look(field):
    assert len({getattr(emotion, field) for emotion in EMOTIONS}) == len(EMOTIONS)


def test_spellings_are_unambiguous_and_found_in_any_case():
    spellings = [spelling for emotion in EMOTIONS for spelling in (emotion.name, *emotion.aliases)]
    assert len(set(spellings)) == len(spellings)
    assert find_emotion(" ANG").name == find_emotion("anger").name == "angry"
    assert find_emotion("nostalgic") is None


def test_markers_are_filled_shapes_of_matplotlib():
    assert {emotion.marker for emotion in EMOTIONS} <= set(Line2D.filled_markers)


def test_a_look_does_not_depend_on_the_other_classes_and_unknown_names_stay_apart():
    few, many = looks(["sad", "angry"]), looks(["angry", "Happiness", "new", "[/odd]", "sad"])
    assert few["sad"] == many["sad"]
    assert few["angry"] == many["angry"] == looks(["ANG"])["ANG"]
    assert len({emotion.color for emotion in many.values()}) == 5
    everything = looks([emotion.name for emotion in EMOTIONS] + ["one", "two"])
    assert everything["one"] != everything["two"]


def test_chinese_names():
    assert chinese_name("Joy") == "高兴"
    assert chinese_name("nostalgic") == "nostalgic"
