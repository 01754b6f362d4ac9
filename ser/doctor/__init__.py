"""Checks that say whether installation, corpus, encoder and cache are fit, each with the remedy."""
