"""One flipped bit of a checkpoint: named and refused, or in a place that means nothing."""

import itertools
import random

import pytest
import torch
from checkpoints import save_checkpoint
from children import TINY, command

from ser.errors import SerError
from ser.inference.recognizer import Recognizer
from ser.io import DamagedCheckpointError, read_checkpoint_file
from ser.run.folder import RunFolder


def same(one, other):
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    return type(one) is type(other) and one == other


def flipped(content, place, bit):
    broken = bytearray(content)
    broken[place] ^= 1 << bit
    return bytes(broken)


def weights_at(content):
    """A place in the middle of the longest stretch without the zip's own marks: tensors' bytes."""
    marks = [place for place in range(len(content) - 1) if content[place : place + 2] == b"PK"]
    begin, end = max(itertools.pairwise(marks), key=lambda pair: pair[1] - pair[0])
    return (begin + end) // 2


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    path = save_checkpoint(tmp_path / "best.ckpt")
    content, intact = path.read_bytes(), read_checkpoint_file(path)
    generator, refused = random.Random(0), 0
    for _ in range(400):
        path.write_bytes(flipped(content, generator.randrange(len(content)), generator.randrange(8)))
        try:
            found = read_checkpoint_file(path)
        except DamagedCheckpointError:
            refused += 1
        else:
            assert same(found, intact)
    assert refused > 300  # the rest are the archive's alignment, dates and the like


def test_torch_itself_would_not_notice(tmp_path):
    """Why there is a check: should torch begin to look at the checksums, it can go."""
    path = save_checkpoint(tmp_path / "best.ckpt")
    content = path.read_bytes()
    path.write_bytes(flipped(content, weights_at(content), 6))
    torch.load(path, weights_only=True)
    with pytest.raises(DamagedCheckpointError, match="checksum"):
        read_checkpoint_file(path)


def test_recognizer_names_the_damaged_file(tmp_path):
    path = save_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    content = path.read_bytes()
    path.write_bytes(flipped(content, weights_at(content), 6))
    with pytest.raises(SerError, match=r"best\.ckpt .*fails its checksum"):
        Recognizer.from_checkpoint(tmp_path / "run")
    with pytest.raises(SerError, match=r"best\.ckpt is damaged .*fails its checksum"):
        RunFolder(tmp_path / "run").read_best()


@pytest.mark.faults
def test_training_neither_resumes_from_nor_tests_a_damaged_checkpoint(corpus, cache, tmp_path):
    run = tmp_path / "run"
    words = ["train.py", *corpus, *TINY, f"paths.cache={cache}", f"paths.run={run}", "leakage=false"]
    assert command(run, *words).code == 0
    (run / "metrics.json").unlink()  # interrupted before its end
    before = (run / "predictions.csv").read_bytes()
    generator = random.Random(1)
    for name in ("last.ckpt", "best.ckpt"):
        path = run / "checkpoints" / name
        content = path.read_bytes()
        for _ in range(3):
            place = weights_at(content) + generator.randrange(-200, 200)
            path.write_bytes(flipped(content, place, generator.randrange(8)))
            ended = command(run, *words, "resume=true")
            flat = " ".join(ended.shown.split())
            assert ended.code == 1 and f"{name} is damaged" in flat and "Traceback" not in flat, ended.shown
            assert not (run / "metrics.json").exists()
        path.write_bytes(content)
    assert command(run, *words, "resume=true").code == 0
    assert (run / "predictions.csv").read_bytes() == before
