"""One parser a corpus; each returns a :class:`ser.data.corpus.Corpus`."""

from ser.data.corpora.emodb import emodb
from ser.data.corpora.iemocap import iemocap
from ser.data.corpora.manifest import manifest
from ser.data.corpora.ravdess import ravdess

__all__ = ["emodb", "iemocap", "manifest", "ravdess"]
