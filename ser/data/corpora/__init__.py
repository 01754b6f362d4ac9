"""Parsers of corpora, and several corpora as one: ids, speakers and sessions apart, one set of classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ser.data.corpora.parsing import log, validate_emotions
from ser.data.corpus import Corpus
from ser.emotions import common_name
from ser.errors import SerError

_SECOND = (  # how a corpus gets a name
    "a second table or folder of one kind gets a name of its own by +data@data.%s=manifest, and its settings below it"
)


def combined(
    corpora: Sequence[str], emotions: Sequence[str] | None = None, **parts: Callable[..., Corpus] | Corpus
) -> Corpus:
    """Read some corpora and join them; each utterance says which it is from.

    Ids and speakers begin with the corpus (``ravdess/Actor_01``), sessions are numbered on. Frames are cached per
    corpus, as for each alone. Every corpus must have the classes ``emotions``; None: those that all corpora have, in
    the order and spelling of the first one (``anger`` is ``angry``). Other utterances are left out. ``parts`` read a
    corpus with its own settings, or are corpora.

    Raises:
        SerError: a corpus is unknown or cannot be read, or they have fewer than two classes in common.
    """
    names = [str(name) for name in corpora]
    if unknown := [name for name in names if name not in parts]:
        raise SerError(
            f"data.corpora has {unknown[0]}, expected some of {', '.join(sorted(parts))}; {_SECOND % unknown[0]}."
        )
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise SerError(
            f"data.corpora=[{', '.join(names)}] was given, expected at least two different names; {_SECOND % 'second'}."
        )
    chosen = {} if emotions is None else {"emotions": list(emotions)}
    read = [part if isinstance(part, Corpus) else part(**chosen) for part in map(parts.__getitem__, names)]
    if made_up := [corpus.name for corpus in read if corpus.frame_source is not None]:
        raise SerError(f"{made_up[0]} makes its own frames, expected corpora with audio; leave it out of data.corpora.")
    spelling = {common_name(name): name for corpus in reversed(read) for name in reversed(corpus.emotions)}
    read = [_respelled(corpus, spelling) for corpus in read]
    shared = [name for name in read[0].emotions if all(name in corpus.emotions for corpus in read)]
    wanted = validate_emotions(shared if emotions is None else emotions, shared, f"every one of {', '.join(names)}")
    utterances, kept, first = [], [], 0
    for name, corpus in zip(names, read, strict=True):
        own = [u for u in corpus.utterances if u.emotion in wanted]
        if left_out := len(corpus.utterances) - len(own):
            classes = ", ".join(emotion for emotion in corpus.emotions if emotion not in wanted)
            log.info(
                "%s: %d utterances of classes that not all corpora have (%s) are left out", name, left_out, classes
            )
        number = {session: first + place for place, session in enumerate(corpus.sessions, 1)}
        utterances += [
            replace(u, id=f"{name}/{u.id}", speaker=f"{name}/{u.speaker}", session=number[u.session], corpus=name)
            for u in own
        ]
        kept.append((name, Corpus(corpus.name, wanted, tuple(own))))
        first += len(number)
    return Corpus("+".join(names), wanted, tuple(utterances), parts=tuple(kept))


def _respelled(corpus: Corpus, spelling: Mapping[str, str]) -> Corpus:
    """The corpus with its emotions spelled as ``spelling`` says of their common names."""
    names = {name: spelling[common_name(name)] for name in corpus.emotions}
    if all(name == new for name, new in names.items()):
        return corpus
    utterances = tuple(replace(u, emotion=names[u.emotion]) for u in corpus.utterances)
    return replace(corpus, emotions=tuple(dict.fromkeys(names.values())), utterances=utterances)
