"""Adversaries that train with the network: with heads that name the speaker, and a kernel that needs none."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ser.adversary.base import Adversary, AdversaryOutput, FeatureMemory, reverse_gradient
from ser.errors import check_number
from ser.models.network import ClassifierHead


class SpeakerClassifier(Adversary):
    """Names the training speaker behind a gradient reversal: the head learns the speaker, the network unlearns it.

    Source: Ganin & Lempitsky 2015, "Unsupervised domain adaptation by backpropagation".
    """

    def __init__(
        self,
        pooled: int,
        speakers: int,
        emotions: int,
        *,
        hidden_size: int = 256,
        dropout: float = 0.3,
        normalize: bool = False,
        weight: float = 0.05,
        lr_factor: float = 1.0,
    ) -> None:
        super().__init__(weight, lr_factor)
        check_number("adversarial.hidden_size", hidden_size, 2, whole=True)  # the head halves it
        check_number("adversarial.dropout", dropout, 0, 1)
        self.norm = nn.BatchNorm1d(pooled, affine=False) if normalize else None
        self.classifier = ClassifierHead(pooled, speakers, hidden_size, dropout)

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the cross entropy of the speaker; its gradient reaches ``pooled`` times ``-alpha``."""
        features = reverse_gradient(pooled, self.alpha)
        if self.norm is not None:
            # One utterance has no variance over the batch; it is scaled by the running statistics.
            self.norm.train(self.training and len(features) > 1)
            features = self.norm(features)
        logits: Tensor = self.classifier(features)  # (B, S)
        return AdversaryOutput(F.cross_entropy(logits, speaker), logits)


_BATCH = 64  # remembered utterances per step of the heads
_SMOOTHING = 0.05  # of the running loss that tells whether a head is alive
_PATIENCE = 50  # network steps at chance after which a head is initialised again


class Square(nn.Module):
    """Squares each value; after a linear layer, a head can tell speakers by their variances."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the squares."""
        return values.square()


class Critics(Adversary):
    """Base of adversaries with a linear, a quadratic and an MLP head on features whitened within the emotion.

    The heads also get the emotion, so what they learn is the speaker given the emotion. Between two steps of the
    network they take ``steps`` steps on remembered utterances; a head whose loss on new utterances stays at chance
    starts anew. Subclasses define ``objective``, the loss that the network gets.
    """

    recent: Tensor
    dead: Tensor

    def __init__(
        self,
        pooled: int,
        speakers: int,
        emotions: int,
        *,
        hidden_size: int = 64,
        steps: int = 5,
        lr: float = 3e-3,
        memory: int = 512,
        weight: float = 1.0,
    ) -> None:
        super().__init__(weight)
        check_number("adversarial.hidden_size", hidden_size, 1, whole=True)
        check_number("adversarial.steps", steps, 1, whole=True)
        check_number("adversarial.lr", lr, 0, above=True)
        check_number("adversarial.memory", memory, _BATCH, whole=True)
        self.steps, self.emotions, self.chance = steps, emotions, math.log(speakers)
        self.memory = FeatureMemory(pooled, emotions, memory)
        inputs = pooled + emotions
        self.heads = nn.ModuleList(
            (
                nn.Linear(inputs, speakers),
                nn.Sequential(nn.Linear(inputs, hidden_size), Square(), nn.Linear(hidden_size, speakers)),
                nn.Sequential(nn.Linear(inputs, hidden_size), nn.ReLU(), nn.Linear(hidden_size, speakers)),
            )
        )
        self.optimizer = torch.optim.Adam(self.heads.parameters(), lr)
        self.heads.requires_grad_(False)  # the network's optimizer leaves them alone
        self.register_buffer("recent", torch.zeros(len(self.heads)))  # running loss on new utterances
        self.register_buffer("dead", torch.zeros(len(self.heads), dtype=torch.long))  # network steps at chance

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Train the heads and return the network's loss; its gradient is multiplied by ``alpha``."""
        self.memory.add(pooled, speaker, emotion)
        means, matrix = self.memory.whitening()

        def whiten(features: Tensor, emotion: Tensor) -> Tensor:
            return torch.cat(((features - means[emotion]) @ matrix, F.one_hot(emotion, self.emotions)), dim=-1)

        if len(self.memory) >= _BATCH and self.training:
            self._watch(whiten(pooled.detach(), emotion), speaker)
            features, speakers, emotions = self.memory.stored()
            self._train_heads(whiten(features, emotions), speakers)
        inputs = whiten(reverse_gradient(pooled, -self.alpha), emotion)  # reversed twice: times alpha
        logits = torch.stack([head(inputs) for head in self.heads])  # (heads, B, S)
        return AdversaryOutput(self.objective(inputs, logits, speaker), logits.mean(dim=0))

    @abstractmethod
    def objective(self, inputs: Tensor, logits: Tensor, speaker: Tensor) -> Tensor:
        """The loss that the network makes small, of inputs (B, P + C), logits (heads, B, S) and speakers (B,).

        The inputs are the whitened features with their gradient, and the emotion.
        """

    @torch.enable_grad()
    def _train_heads(self, inputs: Tensor, speaker: Tensor) -> None:
        self.heads.requires_grad_(True)
        for _ in range(self.steps):
            rows = torch.randint(len(inputs), (_BATCH,), device=inputs.device)
            losses = [F.cross_entropy(head(inputs[rows]), speaker[rows]) for head in self.heads]
            self.optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.heads.requires_grad_(False)

    def _watch(self, inputs: Tensor, speaker: Tensor) -> None:
        """Initialise heads again whose loss on new utterances has long been at chance."""
        losses = torch.stack([F.cross_entropy(head(inputs), speaker) for head in self.heads])
        self.recent += _SMOOTHING * (losses - self.recent)
        self.dead = torch.where(self.recent < self.chance, 0, self.dead + 1)
        for number in (self.dead > _PATIENCE).nonzero().flatten().tolist():
            for layer in self.heads[number].modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
            for parameter in self.heads[number].parameters():
                self.optimizer.state.pop(parameter, None)
            self.dead[number], self.recent[number] = 0, 0.0

    def get_extra_state(self) -> dict[str, Any]:
        """The state of the heads' optimizer, so that a resumed run goes on bit for bit."""
        return self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take the state of the heads' optimizer."""
        self.optimizer.load_state_dict(state)


class ReversalCritics(Critics):
    """Makes the heads wrong: gradient reversal (Ganin & Lempitsky 2015), conditional on the emotion (Long et al. 2018).

    Source: "Unsupervised domain adaptation by backpropagation"; "Conditional adversarial domain adaptation".
    """

    def objective(self, inputs: Tensor, logits: Tensor, speaker: Tensor) -> Tensor:
        """Minus the mean cross entropy of the heads, at most that of chance per utterance."""
        losses = torch.stack([F.cross_entropy(each, speaker, reduction="none") for each in logits])  # (heads, B)
        return -losses.clamp_max(self.chance).mean()


class ConfusionCritics(Critics):
    """Makes the heads undecided: the entropy of their answers is pushed up to that of chance.

    Source: Li et al. 2020, "Speaker-invariant affective representation learning via adversarial training".
    """

    def objective(self, inputs: Tensor, logits: Tensor, speaker: Tensor) -> Tensor:
        """Mean cross entropy of the heads to the uniform distribution, less its smallest value."""
        return -logits.log_softmax(dim=-1).mean() - self.chance


class FlatCritics(Critics):
    """Makes the heads blind: the gradient of their loss with respect to the features is pushed to zero.

    Source: Gat et al. 2022, "Speaker normalization for self-supervised speech emotion recognition".
    """

    def objective(self, inputs: Tensor, logits: Tensor, speaker: Tensor) -> Tensor:
        """Mean squared norm of the gradient per utterance and head."""
        losses = [F.cross_entropy(each, speaker, reduction="sum") for each in logits]
        gradients = [torch.autograd.grad(loss, inputs, create_graph=True)[0] for loss in losses]
        return torch.stack(gradients)[..., : -self.emotions].square().sum(dim=-1).mean()


_BANDWIDTHS = (0.25, 1.0, 4.0)  # of the Gaussian kernels, times the mean squared distance


class KernelIndependence(Adversary):
    """Makes utterances of one speaker no more alike than those of two, within each emotion.

    The loss is the mean kernel value between utterances of the same emotion and speaker, less that between utterances
    of the same emotion and different speakers: a Hilbert-Schmidt independence criterion whose kernel on the labels is
    balanced over the two kinds of pairs. One side of a pair is the batch, the other the remembered utterances; features
    are whitened within the emotion.

    Source: Gretton et al. 2005, "Measuring statistical dependence with Hilbert-Schmidt norms".
    """

    def __init__(self, pooled: int, speakers: int, emotions: int, *, memory: int = 512, weight: float = 1.0) -> None:
        super().__init__(weight)
        check_number("adversarial.memory", memory, 1, whole=True)
        self.memory = FeatureMemory(pooled, emotions, memory)

    def forward(self, pooled: Tensor, speaker: Tensor, emotion: Tensor) -> AdversaryOutput:
        """Return the difference of the two means; its gradient is multiplied by ``alpha``."""
        features, speakers, emotions = (part.clone() for part in self.memory.stored())  # before this batch is in it
        self.memory.add(pooled, speaker, emotion)
        means, matrix = self.memory.whitening()
        own = (reverse_gradient(pooled, -self.alpha) - means[emotion]) @ matrix  # (B, P)
        other = (features - means[emotions]) @ matrix  # (N, P)
        distance = torch.cdist(own, other).square()  # (B, N)
        scale = distance.detach().mean()
        kernel = torch.stack([(-distance / (scale * width)).exp() for width in _BANDWIDTHS]).mean(dim=0)
        alike = emotion[:, None] == emotions[None, :]
        same = alike & (speaker[:, None] == speakers[None, :])
        return AdversaryOutput(_mean(kernel, same) - _mean(kernel, alike & ~same), None)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)
