"""The generated reference says what every setting means, and lists every error message."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import fake_corpora
import pytest
import typer

from ser import cli
from ser.config import check_overrides

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip("mkdocs", reason="needs ser-lab[docs]")
sys.path.insert(0, str(ROOT / "docs" / "reference"))
import from_code  # noqa: E402
import from_conf  # noqa: E402
import line_breaks  # noqa: E402

GROUPS = sorted(group for group in from_conf.folder_names() if not group.startswith("experiment"))


@pytest.mark.parametrize("group", GROUPS)
def test_each_setting_and_option_of_a_group_is_explained(group):
    for file in (from_conf.CONF / group).glob("*.yaml"):
        assert from_conf.header(file), f"{file} needs a comment at its top"
        for setting in from_conf.read_settings(file):
            assert setting.meaning or from_conf.meanings(file).get(setting.key.rpartition(".")[2]), (
                f"{file}: {setting.key}: a comment"
            )


def test_each_key_of_the_page_is_explained():
    for setting in from_conf.read_settings(from_conf.CONF / "train.yaml"):
        assert setting.meaning, f"conf/train.yaml: {setting.key} needs a comment"


def test_each_experiment_is_explained():
    for file in (from_conf.CONF / "experiment").rglob("*.yaml"):
        assert from_conf.header(file), f"{file} needs a comment at its top"


def test_settings_are_read_with_value_and_comment(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# top\n_target_: x.Y\na: 1  # one\nb:\n  - _target_: x.Z\n    c: '#'  # two\n# up\nd: []\n"
    )
    assert from_conf.read_settings(tmp_path / "a.yaml") == [
        ("a", "1", "one"), ("b.0.c", "'#'", "Z: two"), ("d", "[]", "up")
    ]  # fmt: skip


def test_error_messages_are_split_into_what_is_wrong_and_what_to_do(tmp_path):
    (tmp_path / "a.py").write_text(
        "_WAY = 'give another'\n\ndef f(n):\n    raise SerError(f'n={n} was given, expected 1; {_WAY}.')\n"
    )
    (message,) = from_code.messages(tmp_path / "a.py")
    assert message == "n=⟨n⟩ was given, expected 1; give another."
    assert from_code._row(message) == "| n=⟨n⟩ was given, expected 1 | Give another. |"


def test_error_messages_with_sums_and_with_a_remedy_that_depends_are_readable(tmp_path):
    (tmp_path / "a.py").write_text(
        "_RATE = 16000\n\ndef f(n, remedy):\n    raise SerError(f'only {1000 * n / _RATE} ms were given; {remedy}.')\n"
    )
    (message,) = from_code.messages(tmp_path / "a.py")
    assert message == "only ⟨…⟩ ms were given; ⟨remedy⟩."
    assert from_code._row("⟨path⟩ has no valid ⟨…⟩; ⟨remedy⟩.") == (
        "| ⟨path⟩ has no valid ⟨…⟩ | Repeat the command that wrote it: `ser train` a run, `ser probe` its probe. |"
    )


def test_each_error_message_is_on_its_page():
    page = from_code.errors()
    rows = re.findall(r"^\| (?!message|-).*\|$", page, re.M)
    assert len(rows) > 200
    assert len(re.findall(r"^## ", page, re.M)) == len(set(from_code.TOPICS.values()))


def test_braces_at_the_end_of_a_meaning_are_kept():
    settings = from_conf.read_settings(from_conf.CONF / "data" / "ravdess.yaml")
    assert "| class of a label: `{calm: neutral}` |" in from_conf.table(settings, {})


def test_lines_break_neither_in_intervals_nor_in_options_and_blocks_of_code_stay_as_they_are():
    text, kept = "82.1 [77.3, 86.5] (p 0.012), --a-b x=/path/to/corpus", "<pre><code>[1.0, 2.0] a_b</code></pre>"
    assert line_breaks.on_page_content(f"<p>{text} <code>probe --of a/b_c</code></p>{kept}") == (
        '<p>82.1 [77.3,&nbsp;86.5] (p&nbsp;0.012), <span class="whole">--a-b</span> x=/<wbr>path/<wbr>to/<wbr>corpus '
        f'<code>probe <span class="whole">--of</span> a/<wbr>b_<wbr>c</code></p>{kept}'
    )


def test_options_of_commands_stay_whole_long_values_fold_and_chinese_lines_join_without_a_space():
    command = line_breaks.on_page_content('<pre><code>ser predict a.wav --output <span class="w">b</span></code></pre>')
    assert command == (
        '<pre><code>ser predict a.wav <span class="whole">--output</span> <span class="w">b</span></code></pre>'
    )
    value = "${a.long:${value.of.many},${keys.that.no},${column.of.a.table},${could.hold}}"
    folded = line_breaks.on_page_content(f"<td><code>{value}</code></td>")
    assert folded.startswith('<td><code class="long">') and folded.replace("<wbr>", "").endswith(
        f">{value}</code></td>"
    )
    assert (
        line_breaks.on_page_content("<p>\u4e00\uff0c\n\u4e8c\nthree\nfour</p>")
        == "<p>\u4e00\uff0c\u4e8c\nthree\nfour</p>"
    )


def test_a_comment_explains_its_own_option_and_those_based_on_it():
    strong = from_conf.meanings(from_conf.CONF / "augmentation/strong.yaml")
    assert "mixstyle" in strong and not {"fraction", "factor", "masks"} & set(strong), "entries of lists"
    assert from_conf.meanings(from_conf.CONF / "adversarial/fast_head.yaml")["lr_factor"]
    page = from_conf.configuration()
    assert "`001[1-9]|0020`" in page


def test_commands_show_their_examples_as_code():
    page = from_code.commands()
    assert "```bash\nser predict " in page
    assert not re.search(r"\[(cyan|bold)\]|<span", page)
    assert "$ ser train [-m] [KEY=VALUE]..." in page
    assert "  baseline   what the others" in page


def test_examples_of_the_guides_run_together(tmp_path):
    for name in ("ser", "conf", "train.py"):
        source, ignored = ROOT / name, shutil.ignore_patterns("__pycache__")
        (shutil.copytree(source, tmp_path / name, ignore=ignored) if source.is_dir() else shutil.copy(source, tmp_path))
    blocks = [
        found
        for guide in ("extend", "corpus")
        for found in re.findall(
            r'```\w+ title="([^" ]+)([^"]*)"\n(.*?)```', (ROOT / f"docs/howto/{guide}.md").read_text(), re.S
        )
    ]
    for name, place, text in blocks:
        file = tmp_path / name
        assert file.exists() == bool(place), name
        file.write_text(f"{file.read_text()}\n\n{text}" if place else text)
    assert len(blocks) == 12
    tables = tmp_path / "ser/evaluation/report/page_tables.py"
    tables.write_text(tables.read_text().replace("[_scores(run)", "[_scores(run), confidence_table(run)"))
    for speaker in ("anna", "ben", "carla", "dirk", "eva", "fred"):
        for emotion in ("angry", "happy", "sad"):
            path = tmp_path / f"wav/{speaker}_{emotion}_01.wav"
            fake_corpora.write_voice(path, speaker, emotion, 0.4, female=speaker.endswith("a"))
    options = (
        "data=mine data.root=wav features=energy model=convolution loss=generalized adversarial=means variant=mine"
    )
    train = ["train", *options.split(), "trainer.max_epochs=1", "logger=none", "leakage=false"]
    run = "outputs/mine-energy/mine/fold1/seed1"
    code = f"from ser.cli import main; raise SystemExit(main({train}) or main(['report', '{run}']))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=False,
                          capture_output=True, text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / run / "figures/certainty.png").is_file()
    assert "mean confidence (%)" in (tmp_path / run / "report.html").read_text()


def test_the_notebook_runs(tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "docs/tutorials/first_model.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    for cell in notebook.cells:  # fewer utterances and epochs than a reader waits for
        cell.source = cell.source.replace("data=synthetic", "data=synthetic data.utterances=80")
        cell.source = cell.source.replace(
            "experiment=recommended", "experiment=recommended trainer.max_epochs=2 logger=none"
        )
    nbclient.NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    said = "".join(output.get("text", "") for output in shown)
    assert "error:" not in said
    assert "p speakers" in said
    assert (tmp_path / "report.html").is_file()


def commands_of(page):
    """The ``ser`` commands of a page, continued lines joined, variables filled in."""
    variables = {"DATA": "data=synthetic"}
    for block in re.findall(r"```bash\n(.*?)```", page, re.S):
        for line in re.sub(r"\\\n| >.*", " ", block).splitlines():
            if found := re.match(r'(\w+)=("?)(.*)\2$', line):
                variables[found[1]] = found[3]
            words = [word for part in shlex.split(line, comments=True) for word in expanded(part, variables)]
            if words[:1] == ["ser"]:
                yield words[1:]


def expanded(word, variables):
    name = word.lstrip("$")
    return variables.get(name, word).split() if word in ("DATA", f"${name}") else [word]


PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
COMMANDS = sorted({tuple(words) for page in PAGES for words in commands_of(page.read_text(encoding="utf-8"))})


def as_of_train(word):
    """``variant=A,B`` of a sweep as the group that has A; a sweep may mix models and experiments, a training not."""
    if not word.startswith("variant="):
        return word
    names = word.removeprefix("variant=").split(",")
    experiments = [name for name in names if (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file()]
    return f"experiment={','.join(experiments)}" if experiments else f"model={','.join(names)}"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_of_the_documentation_is_accepted(words):
    command = typer.main.get_command(cli.app)
    context = command.make_context("ser", list(words), resilient_parsing=True)
    name, chosen, rest = command.resolve_command(context, list(words))
    chosen.make_context(name, list(rest), parent=context)  # refuses unknown options and missing arguments
    overrides = [word for word in rest if re.match(r"[\w./+@]+=", word)]
    if name in ("train", "sweep", "doctor", "extract") and "--help" not in rest:
        if name == "sweep":
            overrides = [as_of_train(word) for word in overrides if not word.startswith("baseline=")]
        check_overrides(overrides, True)


def test_the_readmes_in_english_and_chinese_have_the_same_commands_sections_and_figures():
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    assert list(commands_of(english)) == list(commands_of(chinese))
    for pattern in (r"^#+ ", r"^```\w*$", r"\d+\.\d \[\d+\.\d, \d+\.\d\]"):
        found, translated = (re.findall(pattern, text, re.M) for text in (english, chinese))
        assert found == translated
