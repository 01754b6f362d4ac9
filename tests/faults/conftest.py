import pytest
from children import command
from fake_corpora import write_manifest


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Words that choose a small corpus of six speakers in three sessions."""
    folder = tmp_path_factory.mktemp("corpus")
    table = write_manifest(folder, utterances_per_speaker_and_emotion=2, seconds=0.3, session=True)
    return ["data=manifest", f"data.manifest={table}"]


@pytest.fixture(scope="session")
def cache(corpus, tmp_path_factory):
    """The word for a cache that is filled."""
    folder = tmp_path_factory.mktemp("cache") / "cache"
    ended = command(folder, "ser", "extract", *corpus, f"paths.cache={folder}")
    assert ended.code == 0, ended.shown
    return folder
