"""The one exception a user is meant to read."""


class SerError(Exception):
    """Bad input, told in one sentence: what was given, what was expected, what to do.

    Entry points print the message without a traceback and exit with code 1. Every other exception is a defect of the
    program and keeps its traceback.
    """
