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
from safetensors.numpy import load_file, save_file

from ser.data.cache import FeatureCache, Recording, Shard, fingerprint, write_shard
from ser.errors import SerError


def frames_of(count=6, dim=5, seed=0):
    generator = np.random.default_rng(seed)
    return {f"z{9 - k}": generator.standard_normal((k + 1, dim)).astype(np.float16) for k in range(count)}


def recordings_of(frames):
    return {name: Recording(f"hash of {name}", 0.0, None) for name in frames}


def write(path, frames):
    write_shard(path, frames, recordings_of(frames), "toy")
    return path


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "session1-0001.safetensors", frames_of())


def read_all(path):
    cache = FeatureCache.of_shards([path])
    for name in cache.lengths:
        cache.read(name)
    cache.sums(dict.fromkeys(cache.lengths, 0))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), dim=st.integers(1, 9), seed=st.integers(0, 99))
def test_what_was_written_is_read(tmp_path_factory, lengths, dim, seed):
    generator = np.random.default_rng(seed)
    frames = {f"ü{k}": generator.standard_normal((n, dim)).astype(np.float16) for k, n in enumerate(lengths)}
    path = write(tmp_path_factory.mktemp("cache") / "session1-0001.safetensors", frames)
    cache = FeatureCache.of_shards([path])
    assert cache.dim == dim and cache.lengths == {name: len(value) for name, value in frames.items()}
    assert cache.recordings == recordings_of(frames)
    for name, value in frames.items():
        np.testing.assert_array_equal(cache.read(name), value)
    group_of = {name: k % 3 for k, name in enumerate(frames)}
    counts, total, square = cache.sums(group_of)
    for group in range(len(counts)):
        rows = np.concatenate([frames[name] for name in frames if group_of[name] == group]).astype(np.float64)
        assert counts[group] == len(rows)
        np.testing.assert_allclose(total[group], rows.sum(0), atol=1e-9)
        np.testing.assert_allclose(square[group], np.square(rows).sum(0), atol=1e-9)


def test_it_is_a_plain_safetensors_file(path):
    tensors = load_file(path)
    for name, value in frames_of().items():
        np.testing.assert_array_equal(tensors[name], value)
    records = json.loads(safe_open(path, "numpy").metadata()["ser"].partition(" ")[2])["records"]
    assert records[0]["id"] in frames_of() and {"recording", "length", "crc32"} <= records[0].keys()


def test_whoever_may_read_a_new_file_may_read_a_shard(path):
    path.with_name("new").touch()
    assert path.stat().st_mode == path.with_name("new").stat().st_mode


def test_any_flipped_bit_is_noticed_or_changes_nothing(path):
    content, generator, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        broken = bytearray(content)
        broken[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(broken)
        try:
            read_all(path)
            cache = FeatureCache.of_shards([path])
            assert cache.recordings == recordings_of(frames_of())
            assert all(np.array_equal(cache.read(name), value) for name, value in frames_of().items())
        except SerError as error:
            refused += 1
            assert "delete that file" in str(error)
    assert refused > 280


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SerError, match="damaged"):
        read_all(path)


def test_files_of_other_programs_and_formats_are_refused(path):
    save_file({"z9": frames_of()["z9"]}, path)
    with pytest.raises(SerError, match="damaged"):
        Shard(path)


def test_missing_things_are_named(path, tmp_path):
    with pytest.raises(SerError, match="extract the corpus first"):
        FeatureCache({})
    with pytest.raises(SerError, match="nowhere"):
        Shard(tmp_path / "nowhere.safetensors")
    with pytest.raises(SerError, match="ser extract"):
        FeatureCache.of_shards([path]).read("absent")
    other = write(tmp_path / "session2-0001.safetensors", {"other": np.ones((2, 4), np.float16)})
    with pytest.raises(SerError, match=r"5 values.*of 4"):
        FeatureCache.of_shards([path, other])
    cache = FeatureCache.of_shards([path])
    path.unlink()
    with pytest.raises(SerError, match="cannot be read"):
        cache.read("z9")


def test_a_write_that_fails_leaves_nothing_behind(path, monkeypatch):
    before = path.read_bytes()

    def fail(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fail)
    with pytest.raises(SerError, match="No space left"):
        write(path, frames_of())
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads resident memory from /proc, which is Linux's")
def test_reading_does_not_grow_resident_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("ser.data.cache._MAPPED_BYTES", 4_000_000)
    big = {f"u{k}": np.full((300, 512), k, np.float16) for k in range(200)}  # 61 MB
    cache = FeatureCache.of_shards([write(tmp_path / "session1-0001.safetensors", big)])
    del big

    def mapped():  # kB of file pages
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["RssFile"].split()[0])

    before = mapped()
    for name in random.Random(0).sample(sorted(cache.lengths), 200):
        cache.read(name)
    assert mapped() - before < 15_000


def test_a_cache_travels_to_loader_workers(path):
    cache = FeatureCache.of_shards([path])
    cache.read("z9")  # its file is open now
    again = ForkingPickler.loads(ForkingPickler.dumps(cache))
    np.testing.assert_array_equal(again.read("z9"), frames_of()["z9"])


def test_what_is_read_may_be_changed(path):
    cache = FeatureCache.of_shards([path])
    cache.read("z9")[:] = 7
    np.testing.assert_array_equal(cache.read("z9"), frames_of()["z9"])


def test_fingerprint_follows_the_settings_and_the_frame_code(monkeypatch):
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 1, "b": 3})
    before = fingerprint({"a": 1})
    monkeypatch.setattr("ser.data.cache.FRAME_CODE", 99)
    assert fingerprint({"a": 1}) != before


def test_a_copied_cache_is_as_good(path, tmp_path):
    copy = shutil.copy(path, tmp_path / "copy.safetensors")
    np.testing.assert_array_equal(FeatureCache.of_shards([copy]).read("z9"), frames_of()["z9"])
