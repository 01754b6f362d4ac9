"""The wheel, unpacked into an empty folder: what an installation without the checkout has and can do."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

from ser.config import CONFIG_FOLDER

ROOT = CONFIG_FOLDER.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = {".css", ".ipynb", ".j2", ".js", ".json", ".md", ".py", ".safetensors", ".typed", ".yaml"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files in a folder, built from a copy, since setuptools builds beside its source."""
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "installed"))
    for name in ("ser", "conf"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", source / "dist", source]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next((source / "dist").glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


@pytest.fixture
def ser(installed, tmp_path):
    """Run the installed ``ser`` in an empty folder; what it shows."""

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        command = [sys.executable, "-c", "import sys; from ser.cli import main; sys.exit(main())", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_wheel_holds_every_file(installed):
    expected = {path.relative_to(ROOT) for path in (ROOT / "ser").rglob("*") if path.suffix in SHIPPED}
    expected |= {path.relative_to(ROOT) for path in CONFIG_FOLDER.rglob("*.yaml")}
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.suffix in SHIPPED}
    inside = {path if path.parts[0] == "ser" else "ser" / path for path in expected if "__pycache__" not in path.parts}
    assert {path for path in found if path.parts[0] == "ser"} == inside
    assert {path.parts[0] for path in found} == {"ser"}
    metadata = next(installed.glob("*.dist-info")).joinpath("METADATA").read_text()
    assert "License-Expression: MIT AND CC-BY-NC-SA-4.0" in metadata
    assert "License-File: ser/pretrained/LICENSE" in metadata
    assert (installed / "ser" / "pretrained" / "LICENSE").is_file()


def test_train_composes_from_the_wheel(ser):
    code, shown = ser("train", "--cfg", "job", "model=gru")
    assert code == 0, shown
    assert "_target_: ser.models.recurrent.GRU" in shown
    assert "max_epochs" in shown


def test_train_lists_its_groups_and_refuses_in_one_line(ser):
    code, shown = ser("train", "--help")
    assert code == 0
    assert shown.startswith("usage: ser train ") and "bottleneck_gru" in shown
    code, shown = ser("train", "foldd=3")
    assert code == 1
    assert shown.strip().splitlines()[-1].endswith("did you mean fold?")
    assert "Traceback" not in shown


def test_sweep_expands_from_the_wheel(ser):
    assert "usage: ser sweep variant=" in ser("sweep")[1]
    code, shown = ser("sweep", "variant=gru,nothing")
    assert code == 1
    assert "variant=nothing was given" in shown


def test_version_and_doctor_know_the_distribution(ser):
    code, shown = ser("--version")
    assert (code, shown.strip()) == (0, f"ser {PROJECT['project']['version']}")
    code, shown = ser("doctor")
    assert code == 0, shown
    assert "within their bounds" in shown


def test_advice_names_this_distribution():
    """`ser` on PyPI belongs to others, so nobody may be told to install that."""
    name = PROJECT["project"]["name"]
    advised = re.compile(r"pip install (?:-\S+ )*['\"]?(ser[\w.-]*)")
    texts = [path for kind in ("py", "md", "yaml", "json", "js") for path in ROOT.glob(f"*/**/*.{kind}")]
    texts += [path for path in ROOT.glob("*") if path.is_file()]
    for path in texts:
        if {"outputs", ".venv", "build"} & set(path.parts) or path.name == "constraints.txt":
            continue
        for found in advised.findall(path.read_text(encoding="utf-8", errors="replace")):
            wheel = found.startswith(f"{name.replace('-', '_')}-")  # ser_lab-*.whl, a file
            assert found == name or wheel, f"{path}: pip install {found}"


def test_without_the_environment_one_line_says_how_to_activate_it():
    words = [sys.executable, "-S", "-E", "train.py"]  # no site-packages: as the python of the system
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .* lacks the packages of ser; .*source \.venv/bin/activate.*\n", done.stderr)
