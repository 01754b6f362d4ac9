"""One module a corpus; the function of its name returns a :class:`ser.data.corpus.Corpus`."""
