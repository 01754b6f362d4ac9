"""The LightningModule: a network, its losses, its metrics."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix

from ser.adversary import Adversary
from ser.adversary.base import Features
from ser.data.augmentation import Augmentation
from ser.data.datamodule import Batch
from ser.errors import SerError, check_number
from ser.losses import AuxiliaryEmotions, l2_norms
from ser.metrics import METRICS, class_counts
from ser.models.network import Network, NetworkOutput

Loss = Callable[[Tensor, Tensor], Tensor]


class ConfusionMetric(MulticlassConfusionMatrix):
    """A metric of ``ser.metrics``, computed from the confusion counts of all batches and processes."""

    def __init__(self, emotions: int, name: str) -> None:
        super().__init__(emotions)
        self.metric = METRICS[name]

    def compute(self) -> Tensor:
        """The metric so far, a scalar."""
        self.counts = super().compute()  # (C, C), rows the truth; kept when the metric is reset for the next epoch
        return torch.tensor(float(self.metric(class_counts(self.counts.cpu().numpy()))), device=self.counts.device)


def emotion_metrics(emotions: int, prefix: str) -> MetricCollection:
    """WA, UAR and macro F1; they share one confusion matrix."""
    names = {"wa": "wa", "uar": "uar", "f1": "macro_f1"}
    return MetricCollection({key: ConfusionMetric(emotions, name) for key, name in names.items()}, prefix=prefix)


class EmotionModule(lightning.LightningModule):
    """Trains a network to recognise emotions and, with an adversary, to forget speakers.

    ``loss = emotion loss + adversary.weight * speaker loss + auxiliary.weight * auxiliary loss + l2_reg * sum of weight
    norms``; the speaker loss exists in training only, since validation and test speakers are unseen.

    Args:
        network: frames and lengths to a NetworkOutput.
        adversary: removes the speaker from the pooled features; None for none.
        emotion_loss: (B, C) logits and (B,) or (B, C) targets to a scalar.
        optimizer: makes an optimizer of parameters.
        emotions: class names in order.
        augmentation: changes training frames; identity when it holds no transform.
        auxiliary: second head for emotions outside the task; None for none.
        l2_reg: weight of the summed L2 norms.
        seed: with epoch and batch it determines dropout and augmentation, so that a resumed run repeats them.
        config: plain description stored in every checkpoint, enough to rebuild the network.
    """

    def __init__(
        self,
        network: Network,
        adversary: Adversary | None,
        emotion_loss: Loss,
        optimizer: Callable[[Iterable[Any]], torch.optim.Optimizer],
        emotions: Sequence[str],
        *,
        augmentation: Augmentation,
        auxiliary: AuxiliaryEmotions | None = None,
        l2_reg: float = 0.0,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_number("l2_reg", l2_reg, 0)
        if auxiliary is not None and augmentation.mixup is not None:
            raise SerError(
                "auxiliary_weight was given with mixup, whose mixed labels are those of the task; set "
                "augmentation.mixup_alpha=0 or auxiliary_weight=0."
            )
        self.network, self.adversary, self.emotion_loss = network, adversary, emotion_loss
        self.auxiliary = auxiliary
        self.make_optimizer = optimizer
        self.emotions = list(emotions)
        self.augmentation = augmentation
        self.l2_reg, self.seed, self.config = l2_reg, seed, config or {}
        self.train_metrics = emotion_metrics(len(emotions), "train/")
        self.val_metrics = emotion_metrics(len(emotions), "val/")
        self.test_metrics = emotion_metrics(len(emotions), "test/")  # recorded per epoch; nothing is chosen by them

    def forward(self, frames: Tensor, lengths: Tensor, return_attention: bool = False) -> NetworkOutput:
        """Run the network on normalised frames (B, L, D) of ``lengths`` (B,)."""
        output: NetworkOutput = self.network(frames, lengths, return_attention)
        return output

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this step's dropout and augmentation from its place in the run."""
        place = np.random.SeedSequence([self.seed, self.current_epoch, batch_idx, self.global_rank])
        seed = int(place.generate_state(1, np.uint64)[0])
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed notes each call for devices not in use
        else:
            torch.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Augment, classify, and return the total loss."""
        frames, lengths = self.augmentation(batch.frames, batch.lengths)
        target = batch.emotion
        if self.augmentation.mixstyle is not None:
            frames = self.augmentation.mixstyle(frames, lengths, target, batch.speaker)
        if self.augmentation.mixup is not None:
            one_hot = F.one_hot(target, len(self.emotions)).float()  # (B, C)
            frames, target = self.augmentation.mixup(frames, lengths, one_hot)
        output = self(frames, lengths)
        logits, pooled, speaker, emotion = output.emotion_logits, output.pooled, batch.speaker, batch.emotion
        parts: dict[str, Tensor] = {}
        if self.auxiliary is not None:
            parts["auxiliary_loss"] = self.auxiliary(pooled, emotion)
            known = emotion < len(self.emotions)  # (B,) utterances of the task; the others end here
            logits, pooled, speaker, emotion, target = (
                values[known] for values in (logits, pooled, speaker, emotion, target)
            )
        # Over all utterances of the batch, so that each weighs the same whatever the others are.
        part_of_task = len(emotion) / len(batch.emotion)
        loss = logits.sum() if not part_of_task else part_of_task * self.emotion_loss(logits, target)
        if self.adversary is not None or self.auxiliary is not None:
            parts["emotion_loss"] = loss  # else the loss itself
        if self.adversary is not None and part_of_task:
            with torch.autocast(self.device.type, enabled=False):  # small directions count, and half types lose them
                parts["speaker_loss"], speaker_logits = self.adversary(pooled.float(), speaker, emotion)
            loss = loss + self.adversary.weight * parts["speaker_loss"]
            if speaker_logits is not None:
                parts["speaker_accuracy"] = (speaker_logits.argmax(-1) == speaker).float().mean()
        if self.auxiliary is not None:
            loss = loss + self.auxiliary.weight * parts["auxiliary_loss"]
        if self.l2_reg > 0:
            parts["l2"] = self.l2_reg * l2_norms(self)
            loss = loss + parts["l2"]
        self._log_step("train", {"loss": loss, **parts}, self.train_metrics, logits, emotion, batch_idx)
        return loss

    def on_fit_start(self) -> None:
        """Refuse to choose among epochs where an adversary acts after the last one."""
        chosen = [one for one in self.trainer.checkpoint_callbacks if getattr(one, "monitor", None)]
        if (
            self.adversary is not None
            and self.adversary.after_training
            and (chosen or self.trainer.early_stopping_callbacks)
        ):
            raise SerError(
                f"{type(self.adversary).__name__} acts after the last epoch, but validation may keep an earlier one; "
                "set callbacks.early_stopping=null callbacks.checkpoint.monitor=null."
            )

    @torch.no_grad()
    def on_validation_start(self) -> None:
        """Fit an adversary that needs the whole training part, with the network in evaluation mode."""
        if self.adversary is None or not self.adversary.refits or self.trainer.train_dataloader is None:
            return
        if self.adversary.after_training and self.current_epoch + 1 < int(self.trainer.max_epochs or 1):
            return
        self.adversary.refit(self._training_features())
        if self.network.erase is not None and self.trainer.world_size > 1:
            for tensor in (*self.network.erase.buffers(), *self.network.head.parameters()):
                tensor.copy_(self.trainer.strategy.broadcast(tensor))  # each process saw its own part

    def on_train_epoch_end(self) -> None:
        """Without a validation part, fit such an adversary at the end of the epoch."""
        if not self.trainer.val_dataloaders:
            self.eval()
            self.on_validation_start()
            self.train()

    def _training_features(self) -> Iterator[Features]:
        for loaded in self.trainer.train_dataloader:  # type: ignore[union-attr]
            batch = self.trainer.strategy.batch_to_device(loaded, self.device)
            statistics, known = self(batch.frames, batch.lengths).statistics.float(), batch.emotion < len(self.emotions)
            yield statistics[known], batch.speaker[known], batch.emotion[known]

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log loss and metrics on unseen speakers, of the validation part (loader 0) or the test part (loader 1)."""
        logits = self(batch.frames, batch.lengths).emotion_logits
        losses = {} if dataloader_idx else {"loss": F.cross_entropy(logits, batch.emotion)}
        metrics = (self.val_metrics, self.test_metrics)[dataloader_idx]
        self._log_step("val", losses, metrics, logits, batch.emotion, batch_idx, shown=dataloader_idx == 0)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Return ids, probabilities (B, C) and pooled features (B, P) of a batch, on the CPU.

        With an erasure, the statistics (B, F) before it, too.
        """
        output = self(batch.frames, batch.lengths)
        found = {
            "ids": batch.ids,
            "probabilities": output.emotion_logits.float().softmax(-1).cpu(),
            "pooled": output.pooled.float().cpu(),
        }
        return found if self.network.erase is None else found | {"statistics": output.statistics.float().cpu()}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; a callback changes its learning rate."""
        groups = parameter_groups(self)
        optimizer = self.make_optimizer([{"params": parameters} for parameters, _ in groups])
        for group, (_, factor) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] *= factor
        return optimizer

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the plain description that rebuilds the network without Lightning."""
        checkpoint["config"] = self.config

    def _log_step(
        self,
        phase: str,
        losses: dict[str, Tensor],
        metrics: MetricCollection,
        logits: Tensor,
        emotion: Tensor,
        batch_idx: int,
        shown: bool = True,
    ) -> None:
        """Log for history.csv and, if ``shown``, for the loggers; never test scores, by which nobody may choose.

        Lightning computes metrics at the end of the epoch; they are handed to it with the first batch only, since each
        ``log`` walks through everything logged so far (a quarter of the time of a small network's epoch).
        """
        common: dict[str, Any] = {"on_step": False, "on_epoch": True, "add_dataloader_idx": False, "logger": shown}
        size = max(1, len(emotion))  # a batch may have auxiliary utterances only
        for name, value in losses.items():
            bar = name == "loss"  # more is no room for in 80 columns
            self.log(f"{phase}/{name}", value.detach(), prog_bar=bar, batch_size=size, sync_dist=True, **common)
        if len(emotion):
            metrics.update(logits.detach(), emotion)
        for name, metric in metrics.items(keep_base=False) if batch_idx == 0 else ():
            bar = str(name) in ("train/uar", "val/uar")
            self.log(str(name), metric, prog_bar=bar, batch_size=size, **common)


def parameter_groups(module: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """Trained parameters with the factor of their learning rate, factor 1 first.

    A module has a factor of its own when it has an attribute ``lr_factor``; inner modules override outer ones.
    """
    factors: dict[int, float] = {}
    for inner in module.modules():  # outer ones come first
        if isinstance(factor := getattr(inner, "lr_factor", None), float | int):
            factors |= {id(parameter): float(factor) for parameter in inner.parameters()}
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in module.parameters():
        if parameter.requires_grad:
            groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [(parameters, factor) for factor, parameters in groups.items() if parameters]
