"""Speech emotion recognition, independent of the speaker."""

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

# oneDNN keeps what it compiled for each of the last 1024 shapes of matrix product, and batches by length have many
# shapes: hundreds of MB that grow with the corpus. Fewer cost no time. Read when torch first multiplies.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "24")


@contextmanager
def fast_imports() -> Iterator[None]:
    """Import large packages without garbage collection, which takes a sixth of the time of importing Lightning.

    For the start of a command. What exists afterwards is exempt from later collections; a second call changes nothing,
    or the cycles of a finished run would never be freed.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()
