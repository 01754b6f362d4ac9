"""A trained checkpoint at work, without Lightning."""
