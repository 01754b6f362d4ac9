import json
import random
import shutil
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from ser.data.cache import FeatureCache, Item, Origin, fingerprint, write_items
from ser.errors import SerError

ORIGIN = Origin("toy", "0123", {"encoder": "toy", "layers": [3]})


def frames_of(count=6, dim=5, seed=0):
    generator = np.random.default_rng(seed)
    return {f"z{9 - k}": generator.standard_normal((k + 1, dim)).astype(np.float16) for k in range(count)}


def write(path, frames, origin=ORIGIN):
    write_items(path, [Item.of(name, value, None) for name, value in frames.items()], origin)
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "session1.safetensors", frames_of())


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, lengths, dim, seed):
    generator = np.random.default_rng(seed)
    frames = {f"ü{k}": generator.standard_normal((n, dim)).astype(np.float16) for k, n in enumerate(lengths)}
    path = write(tmp_path_factory.mktemp("cache") / "session1.safetensors", frames)
    cache = FeatureCache([path], ORIGIN)
    assert cache.dim == dim and cache.lengths == {name: len(value) for name, value in frames.items()}
    for name, value in frames.items():
        np.testing.assert_array_equal(cache.read(name), value)
    with safe_open(path, "np") as file:
        assert {name: file.get_tensor(name).shape for name in frames} == {n: v.shape for n, v in frames.items()}
        np.testing.assert_array_equal(file.get_tensor("ü0"), frames["ü0"])
        assert json.loads(file.metadata()["encoder"]) == ORIGIN.encoder


def test_sums_equal_a_pass_over_the_frames(tmp_path):
    frames, more = frames_of(), {"other": np.ones((3, 5), np.float16)}
    cache = FeatureCache([write(tmp_path / "a.safetensors", frames), write(tmp_path / "b.safetensors", more)], ORIGIN)
    names = ["z7", "z4", "other"]
    rows = np.concatenate([cache.read(name) for name in names]).astype(np.float64)
    count, total, square = cache.sums(names)
    assert count == len(rows)
    np.testing.assert_allclose(total, rows.sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(square, np.square(rows).sum(axis=0), rtol=1e-12)


def test_reading_changes_nothing_on_disk(path):
    before = path.read_bytes()
    cache = FeatureCache([path], ORIGIN)
    cache.read("z9")[:] = 0
    assert path.read_bytes() == before
    np.testing.assert_array_equal(cache.read("z9"), frames_of()["z9"])


def test_a_cache_travels_to_a_loader_worker(path):
    cache = FeatureCache([path], ORIGIN)
    cache.read("z9")
    copy = ForkingPickler.loads(ForkingPickler.dumps(cache))
    np.testing.assert_array_equal(copy.read("z4"), cache.read("z4"))


def test_a_file_that_grew_since_it_was_opened_is_read_right(path):
    cache = FeatureCache([path], ORIGIN)
    write(path, {"new": np.zeros((50, 5), np.float16)} | frames_of())
    np.testing.assert_array_equal(cache.read("z4"), frames_of()["z4"])


def read_all(path):
    cache = FeatureCache([path], ORIGIN)
    for name in frames_of():
        cache.read(name)
    cache.sums(frames_of())


def test_any_flipped_bit_is_detected_and_named(path):
    intact = path.read_bytes()
    header = int.from_bytes(intact[:8], "little")
    padding = len(intact[8 : 8 + header]) - len(intact[8 : 8 + header].rstrip(b" "))
    generator = random.Random(0)
    for place in [0, 3, 8, 7 + header - padding, len(intact) - 1, *generator.choices(range(len(intact)), k=400)]:
        if 8 + header - padding <= place < 8 + header:
            continue  # blanks that align the data mean nothing
        broken = bytearray(intact)
        broken[place] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        with pytest.raises(SerError, match=r"session1\.safetensors"):
            read_all(path)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SerError, match="damaged"):
        read_all(path)


@pytest.mark.parametrize(
    ("origin", "sides"),
    [
        (Origin("toy", "0123", {"encoder": "toy", "layers": [4]}), r"layers.*\[3\].*layers.*\[4\]"),
        (Origin("toy", "0123", {"encoder": "hubert", "layers": [3]}), "toy.*hubert"),
        (Origin("iemocap", "0123", ORIGIN.encoder), "toy.*iemocap"),
    ],
)
def test_a_foreign_file_is_refused_with_both_sides_named(path, origin, sides):
    with pytest.raises(SerError, match=sides):
        FeatureCache([path], origin)
    assert FeatureCache([path], Origin("toy", "other labels", ORIGIN.encoder)).dim == 5


def test_missing_things_are_told(path, tmp_path):
    with pytest.raises(SerError, match="extract the corpus first"):
        FeatureCache([])
    with pytest.raises(SerError, match="nowhere"):
        FeatureCache([tmp_path / "nowhere.safetensors"])
    with pytest.raises(SerError, match="ser extract"):
        FeatureCache([path]).read("absent")
    other = write(tmp_path / "session2.safetensors", frames_of(dim=4))
    with pytest.raises(SerError, match=r"4 values.*of 5"):
        FeatureCache([path, other])
    cache = FeatureCache([path])
    path.unlink()
    with pytest.raises(SerError, match="cannot be read"):
        cache.read("z9")


def test_a_write_that_fails_leaves_the_old_file(path):
    before = path.read_bytes()

    def fail():
        raise OSError(28, "No space left on device")

    items = [Item.of(name, value, None) for name, value in frames_of().items()]
    items[-1] = Item(items[-1].id, items[-1].length, 0, None, items[-1].sums, fail)
    with pytest.raises(SerError, match="No space left"):
        write_items(path, items, ORIGIN)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc, which is Linux's")
def test_reading_does_not_grow_resident_memory(tmp_path):
    big = {f"u{k}": np.full((300, 512), k, np.float16) for k in range(200)}  # 61 MB
    cache = FeatureCache([write(tmp_path / "session1.safetensors", big)], ORIGIN)
    del big

    def mapped():  # kB of file pages
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["RssFile"].split()[0])

    before = mapped()
    for name in random.Random(0).sample(sorted(cache.lengths), 200):
        cache.read(name)
    assert mapped() - before < 10_000


def test_fingerprint_follows_the_settings():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})


def test_a_copied_cache_is_as_good(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "copy.safetensors")
    np.testing.assert_array_equal(FeatureCache([copy], ORIGIN).read("z9"), frames_of()["z9"])
