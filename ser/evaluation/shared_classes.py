"""The classes that a model and a corpus have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ser.emotions import find_emotion
from ser.errors import SerError


@dataclass(frozen=True)
class SharedClasses:
    """How the model's classes and the corpus's labels become shared classes.

    Attributes:
        emotions: the shared classes, in the model's order.
        of_label: shared class of each label of the corpus.
        of_class: place among ``emotions`` of each class of the model, None for one that the corpus lacks.
        only_model, only_corpus: what the other side does not know.
    """

    emotions: list[str]
    of_label: dict[str, str]
    of_class: list[int | None]
    only_model: list[str]
    only_corpus: list[str]

    @classmethod
    def of(cls, model: Sequence[str], corpus: Sequence[str], mapping: Mapping[str, str]) -> "SharedClasses":
        """Names are compared after ``mapping``, and aliases such as anger and angry are the same.

        Raises:
            SerError: a mapped name occurs on neither side, or fewer than two classes are shared.
        """
        unknown = sorted(set(mapping) - {*model, *corpus})
        if unknown:
            raise SerError(
                f"map.{unknown[0]} was given, but neither the model ({', '.join(model)}) nor the corpus "
                f"({', '.join(corpus)}) has that class; correct the name."
            )

        def common(name: str) -> str:
            target = mapping.get(name, name)
            found = find_emotion(target)
            return found.name if found else target

        spelled = {common(name): mapping.get(name, name) for name in reversed(model)}
        shared = [name for name in dict.fromkeys(map(common, model)) if name in {common(label) for label in corpus}]
        if len(shared) < 2:
            raise SerError(
                f"the model knows {', '.join(model)} and the corpus {', '.join(corpus)}, expected two or more classes "
                "in common; map the others, for example map.calm=neutral."
            )
        return cls(
            [spelled[name] for name in shared],
            {label: spelled[common(label)] for label in corpus if common(label) in shared},
            [shared.index(common(name)) if common(name) in shared else None for name in model],
            [name for name in model if common(name) not in shared],
            [label for label in corpus if common(label) not in shared],
        )

    def shared_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """(n, C) of the model to (n, shared classes): merged classes are summed, absent ones left out."""
        if self.of_class == list(range(len(self.emotions))):
            return probabilities
        summed = np.zeros((len(probabilities), len(self.emotions)))
        for place, target in enumerate(self.of_class):
            if target is not None:
                summed[:, target] += probabilities[:, place]
        summed = np.maximum(summed, np.finfo(float).tiny)  # the model may give all of it to classes left out
        shares: np.ndarray = summed / summed.sum(axis=1, keepdims=True)
        return shares
