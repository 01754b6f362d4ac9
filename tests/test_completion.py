"""The Tab key completes keys and options of conf/, quickly, in every shell."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ser.cli.app import complete_override


def completed(*words, command="train"):
    *before, last = words
    return complete_override(SimpleNamespace(command=SimpleNamespace(name=command), params={"overrides": before}), last)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["model=enh"], ["model=enhanced_gru", "model=enhanced_gru_reference"]),
        (["model=gru,enhanced_gru_"], ["model=gru,enhanced_gru_reference"]),
        (["experiment=ladder/speaker_"], ["experiment=ladder/speaker_norm"]),
        (["model", "=", "enh"], ["enhanced_gru", "enhanced_gru_reference"]),  # as bash takes model=enh apart
        (["fold=1", "optimizer", ""], ["adam", "adamw", "sgd"]),
        (["mo"], ["model=", "model/attention=", "model/pooling="]),
        (["los"], ["loss=cross_entropy", "loss=focal"]),
        (["data.root=/"], []),  # left to the shell, which knows files
        (["recordings/"], []),
    ],
)
def test_what_is_offered(words, found):
    assert sorted(completed(*words)) == sorted(found)


def test_a_sweep_also_offers_variants_and_no_entry_of_a_list_twice():
    assert {"variant=gru", "variant=ladder/global"} <= set(completed("variant=", command="sweep"))
    assert "variant=gru,gru" not in completed("variant=gru,g", command="sweep")
    assert completed("variant=g") == []


@pytest.mark.parametrize("command", ["train", "sweep", "extract", "doctor", "evaluate"])
@pytest.mark.parametrize(
    ("shell", "words", "shown"),
    [
        ("bash", {"COMP_WORDS": "ser\n{}\nfold\n=\n1\nprotocol\n=\nsp", "COMP_CWORD": "7"}, "speaker"),
        ("zsh", {"_TYPER_COMPLETE_ARGS": "ser {} fold=1 protocol=sp"}, '"protocol=speaker"'),
    ],
)
def test_a_shell_gets_the_options_without_torch(command, shell, words, shown):
    code = (
        "import sys, ser.cli\ntry:\n    ser.cli.main()\nfinally:\n"
        "    assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
    )
    asked = {name: text.format(command) for name, text in words.items()} | {"_SER_COMPLETE": f"complete_{shell}"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | asked, check=False
    )
    assert shown in done.stdout.split() or f"(({shown}))" in done.stdout, done
