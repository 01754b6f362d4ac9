"""Speech emotion recognition, independent of the speaker."""

import os

# oneDNN keeps what it compiled for each of the last 1024 shapes of matrix product, and batches by length have many
# shapes: hundreds of MB that grow with the corpus. Fewer cost no time. Read when torch first multiplies.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "24")
