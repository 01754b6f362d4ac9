"""The generated reference says what every setting means, and lists every error message."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("mkdocs", reason="needs ser-lab[docs]")
sys.path.insert(0, str(ROOT / "docs"))
import generate  # noqa: E402

GROUPS = sorted(group for group in generate.folder_names() if not group.startswith("experiment"))


@pytest.mark.parametrize("group", GROUPS)
def test_each_setting_and_option_of_a_group_is_explained(group):
    meanings = generate.group_meanings(group)
    for file in (generate.CONF / group).glob("*.yaml"):
        assert generate.header(file), f"{file} needs a comment at its top"
        for setting in generate.read_settings(file):
            assert setting.meaning or meanings.get(setting.key.rpartition(".")[2]), f"{file}: {setting.key}: a comment"


def test_each_key_of_the_page_is_explained():
    for setting in generate.read_settings(generate.CONF / "train.yaml"):
        assert setting.meaning, f"conf/train.yaml: {setting.key} needs a comment"


def test_each_experiment_is_explained():
    for file in (generate.CONF / "experiment").rglob("*.yaml"):
        assert generate.header(file), f"{file} needs a comment at its top"


def test_settings_are_read_with_value_and_comment(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# top\n_target_: x.Y\na: 1  # one\nb:\n  - _target_: x.Z\n    c: '#'  # two\n# up\nd: []\n"
    )
    assert generate.read_settings(tmp_path / "a.yaml") == [
        ("a", "1", "one"), ("b.0.c", "'#'", "Z: two"), ("d", "[]", "up")
    ]  # fmt: skip


def test_error_messages_are_split_into_what_is_wrong_and_what_to_do(tmp_path):
    (tmp_path / "a.py").write_text(
        "_WAY = 'give another'\n\ndef f(n):\n    raise SerError(f'n={n} was given, expected 1; {_WAY}.')\n"
    )
    (message,) = generate.messages(tmp_path / "a.py")
    assert message == "n=⟨n⟩ was given, expected 1; give another."
    assert generate._row(message) == "| n=⟨n⟩ was given, expected 1 | Give another. |"


def test_each_error_message_is_on_its_page():
    page = generate.errors()
    rows = re.findall(r"^\| (?!message|-).*\|$", page, re.M)
    assert len(rows) > 200
    assert len(re.findall(r"^## ", page, re.M)) == len(set(generate.TOPICS.values()))


def test_commands_show_their_examples_as_code():
    page = generate.commands()
    assert "```bash\nser predict " in page
    assert not re.search(r"\[(cyan|bold)\]|<span", page)
