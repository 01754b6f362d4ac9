"""Adversaries: what removes the speaker from the pooled features while a network trains.

A new kind of speaker removal is one class here and one file in conf/adversarial; it then works with every network.
"""

from ser.adversary.base import Adversary, AdversaryOutput
from ser.adversary.critics import (
    ConfusionCritics,
    FlatCritics,
    KernelIndependence,
    ReversalCritics,
    SpeakerClassifier,
)
from ser.adversary.erasure import Erasure, ErasureAfterTraining

__all__ = [
    "Adversary",
    "AdversaryOutput",
    "ConfusionCritics",
    "Erasure",
    "ErasureAfterTraining",
    "FlatCritics",
    "KernelIndependence",
    "ReversalCritics",
    "SpeakerClassifier",
]
