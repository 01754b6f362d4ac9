"""Networks without recurrence: mean and std over frames, and a linear layer. The baselines of every table."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ser.data.batching import valid_frames
from ser.errors import SerError, check_number
from ser.models.layers import MeanStdPooling, Pooling
from ser.models.network import Network, check_settings

LabelledBatch = tuple[Tensor, Tensor, Tensor]  # frames (B, L, D), lengths (B,), emotion (B,)
_SMALLEST = 1e-12  # probability in a cross entropy
_ABSENT = -30.0  # bias of an emotion that no training utterance has: its probability is about 1e-13


class StatisticsLogistic(Network):
    """Mean and std over frames, standardised, then multinomial logistic regression.

    ``fit`` estimates it with scikit-learn, in seconds and without epochs; adversary, augmentation and optimizer have no
    part in it. The pooled features are the standardised statistics.
    """

    mean: Tensor
    std: Tensor
    head: nn.Linear
    seeded: ClassVar[bool] = False

    def __init__(self, input_size: int, emotions: int, *, grid: Sequence[float] = (0.01,)) -> None:
        super().__init__()
        for value in grid:
            check_number("model.grid", value, 0, above=True)
        if not grid:
            raise SerError("model.grid=[] was given, expected at least one value above zero; 0.01 is usual.")
        self.grid = sorted(grid)
        self.pooling = MeanStdPooling(input_size)
        self.pooled_size = self.pooling.size
        self.register_buffer("mean", torch.zeros(self.pooled_size))
        self.register_buffer("std", torch.ones(self.pooled_size))
        self.head = nn.Linear(self.pooled_size, emotions)

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the standardised mean and std over frames (B, 2D), and None."""
        statistics = self.pooling(frames, valid_frames(lengths, frames.shape[1]))  # (B, 2D)
        return (statistics - self.mean) / self.std, None

    def fit(self, train: Iterable[LabelledBatch], validation: Iterable[LabelledBatch]) -> dict[str, float]:
        """Estimate scaler and classifier on ``train`` for each value of the grid; keep the best on ``validation``.

        Best is the lowest cross entropy. The UAR of some hundred utterances jumps from one C to the next by more than
        any C gains, and choosing by it cost 3 points of test UAR on RAVDESS (docs/results/recognition.md).

        Returns:
            ``regularization_c``: the value chosen.
        """
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415  prediction needs no scikit-learn
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
        from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

        (features, truth), (unseen, unseen_truth) = self._statistics(train), self._statistics(validation)
        scaler = StandardScaler().fit(features)
        features, unseen = scaler.transform(features), scaler.transform(unseen)
        size, candidates = self.head.out_features, []
        for value in self.grid:
            model = LogisticRegression(C=value, max_iter=2000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # of a C larger than any that is chosen
                model.fit(features, truth)
            probabilities = np.full((len(unseen), size), _SMALLEST)
            probabilities[:, model.classes_] = model.predict_proba(unseen)
            truly = probabilities[np.arange(len(unseen)), unseen_truth].clip(_SMALLEST)
            candidates.append((-float(np.log(truly).mean()), value, model))
        _, chosen, model = min(candidates, key=lambda candidate: candidate[0])
        self.mean.copy_(torch.from_numpy(scaler.mean_))
        self.std.copy_(torch.from_numpy(scaler.scale_))
        copy_logistic(self.head, model)
        return {"regularization_c": chosen}

    @torch.inference_mode()
    def _statistics(self, batches: Iterable[LabelledBatch]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and std over frames (n, 2D) in double precision, and emotions (n,)."""
        pooled, emotions = [], []
        for frames, lengths, emotion in batches:
            pooled.append(self.pooling(frames, valid_frames(lengths, frames.shape[1])))
            emotions.append(emotion)
        return torch.cat(pooled).double().numpy(), torch.cat(emotions).numpy()


@torch.no_grad()
def copy_logistic(head: nn.Linear, model: Any) -> None:
    """Give ``head`` what scikit-learn estimated; of two emotions it keeps the difference of their rows only."""
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    head.weight.zero_()
    head.bias.fill_(_ABSENT)
    head.weight[model.classes_] = torch.from_numpy(weight).to(head.weight)
    head.bias[model.classes_] = torch.from_numpy(bias).to(head.bias)


@torch.no_grad()
def fit_logistic(head: nn.Linear, features: Tensor, emotion: Tensor, strength: float) -> None:
    """Estimate ``head`` by logistic regression (C = ``strength``) of ``emotion`` (n,) on ``features`` (n, F).

    Features are standardised for the penalty only.
    """
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  prediction needs no scikit-learn

    std, mean = torch.std_mean(features, dim=0)
    std = std.clamp_min(1e-6)
    scaled = ((features - mean) / std).double().cpu().numpy()
    copy_logistic(head, LogisticRegression(C=strength, max_iter=2000).fit(scaled, emotion.cpu().numpy()))
    head.weight.div_(std)
    head.bias.sub_(head.weight @ mean)


class StatisticsMLP(Network):
    """A layer per frame, mean and std over frames, and a linear head: a network without recurrence."""

    def __init__(
        self,
        input_size: int,
        emotions: int,
        *,
        hidden_size: int = 64,
        dropout: float = 0.3,
        pooling: Callable[[int], Pooling] = MeanStdPooling,
    ) -> None:
        super().__init__()
        check_settings(hidden_size, 1, dropout)
        self.channel_dropout = nn.Dropout(dropout / 3)
        self.frame_layer = nn.Sequential(nn.Linear(input_size, hidden_size), nn.ReLU())
        self.pooling = pooling(hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.pooled_size = self.pooling.size
        self.head = nn.Linear(self.pooled_size, emotions)

    def body(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return the pooled features (B, 2H), and None."""
        if self.training:
            frames = frames * self.channel_dropout(torch.ones_like(frames[:, :1]))  # (B, L, D)
        states = self.frame_layer(frames)  # (B, L, H)
        return self.pooling(states, valid_frames(lengths, frames.shape[1])), None

    def reduce(self, statistics: Tensor) -> Tensor:
        """Return the pooled features with dropout (B, 2H)."""
        values: Tensor = self.dropout(statistics)
        return values
