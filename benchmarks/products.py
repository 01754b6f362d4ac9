"""Products of float32 matrices by the library that ``ser.cpu`` chooses against torch's own choice.

    python -m benchmarks.products --rounds 4

Encoders (the sizes of Whisper base and HuBERT base, random weights) and training steps of a network (IEMOCAP's lengths,
batches of 32) are timed with one thread in alternating rounds; the figures are medians of processor time. An encoder
hears a window of 5 s of noise again and again, as in live use, and clips of 1.5 to 5.5 s, each of a length that was not
there before, as in extraction: oneDNN prepares for each new size. Each round has other batches, too. Behind them stands
the largest difference of an encoder's frames, and of the network's loss. Where the processor is none that gains, both
are the same code, as they are for networks below a million parameters.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from threadpoolctl import threadpool_limits
from transformers.utils.logging import disable_progress_bar

from benchmarks.composing import compose_experiment
from benchmarks.live import save_hubert, save_whisper
from ser.cpu import float32_products, reuse_freed_memory
from ser.encoders import Encoder, SpeechEncoder, WhisperEncoder

SECONDS = 5
CLIPS = [1.5 + 0.5 * number for number in range(9)]  # seconds
_LONGER = 0.06  # seconds a round
ENCODERS: dict[str, tuple[Callable[[Path], None], Callable[[str], Encoder]]] = {
    "whisper_base": (save_whisper, lambda folder: WhisperEncoder(folder, window="clip")),
    "hubert_base": (save_hubert, SpeechEncoder),
}
NETWORKS = {"enhanced_gru": "model=enhanced_gru", "enhanced_gru, H 256": "model=enhanced_gru model.hidden_size=256"}


def main() -> None:
    """Print a line per encoder and network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4, help="timed pairs (default: %(default)s)")
    rounds = parser.parse_args().rounds
    reuse_freed_memory()
    disable_progress_bar()
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        for name, (save, build) in ENCODERS.items():
            save(Path(folder) / name)
            encoder = build(str(Path(folder) / name))
            compare(f"{name}, {SECONDS} s", lambda _, e=encoder: forward(e, [SECONDS]), rounds)
            compare(f"{name}, new lengths", lambda n, e=encoder: forward(e, [c + _LONGER * n for c in CLIPS]), rounds)
        for name, overrides in NETWORKS.items():
            compare(f"{name}, training", training_steps(overrides.split()), rounds)


def forward(encoder: Encoder, seconds: Sequence[float]) -> torch.Tensor:
    """Frames (L, D) of clips of noise, one after the other."""
    noise = 0.1 * torch.randn(1, 16_000 * SECONDS * 2, generator=torch.Generator().manual_seed(1))
    clips = [noise[:, : round(16_000 * length)] for length in seconds]
    with torch.inference_mode():
        return torch.cat([encoder(clip, torch.tensor([clip.shape[1]]))[0][0] for clip in clips])


def training_steps(overrides: Sequence[str]) -> Callable[[int], torch.Tensor]:
    """What goes forward and backward through a round's three batches and returns their losses (3,)."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = compose_experiment(Path(folder), 0.05, *overrides)
    data, module = experiment.data, experiment.module().eval()  # no dropout, so that the losses can be compared
    raw = list(data.train_dataloader())

    def run(number: int) -> torch.Tensor:
        losses = []
        for place in (0, len(raw) // 2, len(raw) - 1):
            batch = data.on_after_batch_transfer(raw[(place + number) % len(raw)], 0)
            module.zero_grad()
            loss = module.emotion_loss(module(batch.frames, batch.lengths).emotion_logits, batch.emotion)
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses)

    return run


def compare(title: str, run: Callable[[int], torch.Tensor], rounds: int) -> None:
    """Print the two times of ``run``, which gets the round's number, their ratio, and how far the results lie apart."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    found: dict[bool, torch.Tensor] = {}
    for number in range(rounds + 1):
        for chosen in _turns(number):
            with _as_torch_does() if not chosen else nullcontext(), float32_products():
                start = time.process_time()
                found[chosen] = run(number)
                seconds[chosen].append(time.process_time() - start)
    own, ours = (1000 * median(seconds[chosen][1:]) for chosen in (False, True))
    apart = float((found[True] - found[False]).abs().max())
    print(f"{title:30s} {own:8.2f} ms, chosen {ours:8.2f} ms: ratio {own / ours:.2f}, apart {apart:.1e}", flush=True)


def _as_torch_does() -> AbstractContextManager[object]:
    return mock.patch.object(torch.cpu, "get_capabilities", dict)  # of an unknown processor


def _turns(number: int) -> Sequence[bool]:
    return (False, True) if number % 2 else (True, False)


if __name__ == "__main__":
    main()
