"""The frames of a whole corpus: encoded once, side by side by processes and nodes, and kept in the cache."""
