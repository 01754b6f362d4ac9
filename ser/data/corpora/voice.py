"""A small source-filter voice: glottal pulses and noise through formant resonators (Fant 1960; Klatt 1980).

It speaks no words, but has what an emotion recogniser uses: pitch and its contour, syllables and pauses, vowels with
gliding formants, loudness, brightness, roughness and breath.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

from ser.data.audio import SAMPLE_RATE

Signal = NDArray[np.float64]

_STEP = 80  # samples between two values of a control track (5 ms)
_BLOCK = 2  # control steps with constant formants (10 ms)
# Formants of an adult man in Hz (after Peterson & Barney 1952): i, e, ae, a, o, u and the neutral vowel.
_VOWELS = np.array([[270, 2290, 3010], [460, 1990, 2590], [660, 1720, 2410], [730, 1090, 2440], [570, 840, 2410],
                    [300, 870, 2240], [500, 1500, 2500]], dtype=float)  # fmt: skip
_UPPER_FORMANTS = (3500.0, 4500.0)  # Hz, the fourth and fifth, the same for every vowel
_BANDWIDTHS = np.array([70.0, 90.0, 130.0, 200.0, 260.0])  # Hz
_SONORANT, _FRICATIVE, _STOP = range(3)
_HISS = butter(2, (2800, 7000), "bandpass", fs=SAMPLE_RATE, output="sos")  # what a fricative lets through


@dataclass(frozen=True)
class Delivery:
    """How one utterance is spoken: the speaker's voice and the emotion's shift together."""

    pitch: float  # mean fundamental frequency in Hz
    pitch_range: float  # standard deviation of the accents, in natural logarithms of frequency
    syllable_rate: float  # syllables per second
    level: float  # root mean square in decibels relative to full scale
    cutoff: float  # where the source's spectrum begins to fall, in Hz; higher is brighter
    formant_scale: float  # formant frequencies relative to an adult man's
    roughness: float  # relative disturbance of pitch and amplitude from cycle to cycle
    breath: float  # aspiration noise relative to the pulses


def speak(delivery: Delivery, samples: int, rng: np.random.Generator) -> Signal:
    """One utterance: the waveform (samples,) at 16 kHz, before any room."""
    steps = -(-samples // (_STEP * _BLOCK)) * _BLOCK
    score = _Score.draw(steps * _STEP / SAMPLE_RATE, delivery.syllable_rate, rng)
    time = (np.arange(steps + 1) + 0.5) * _STEP / SAMPLE_RATE
    voicing, friction = score.amplitudes(time)
    formants = score.formants(time[:-1:_BLOCK]) * delivery.formant_scale
    pitch = score.pitch(time, delivery, rng)
    noise = rng.standard_normal(steps * _STEP, dtype=np.float32).astype(np.float64)

    source = _glottal_source(_upsample(pitch), delivery, noise, rng) * _upsample(voicing)
    voice = _vocal_tract(source, formants)
    voice /= np.sqrt(np.mean(voice**2)) + 1e-9
    hiss = sosfilt(_HISS, noise * _upsample(friction))
    speech = (voice + 0.5 * hiss)[:samples]
    return np.asarray(speech * 10 ** (delivery.level / 20))


@dataclass(frozen=True)
class _Score:
    """Syllables one after another; every array has one value per syllable."""

    starts: Signal  # seconds
    durations: Signal  # seconds
    onsets: Signal  # fraction of the syllable taken by its consonant
    consonants: NDArray[np.int64]
    vowels: NDArray[np.int64]
    stresses: Signal  # relative amplitude of the vowel
    accents: Signal  # standard normal, height of the pitch accent

    @classmethod
    def draw(cls, seconds: float, rate: float, rng: np.random.Generator) -> "_Score":
        number = int(seconds * rate * 1.5) + 3
        durations = np.exp(rng.normal(-0.03, 0.25, number)) / rate
        pauses = np.where(rng.random(number) < 0.12, rng.uniform(0.4, 1.8, number) / rate, 0.0)
        silence = min(0.15, 0.08 * seconds)  # before the first and after the last syllable
        starts = silence + np.concatenate([[0.0], np.cumsum(durations + pauses)[:-1]])
        number = max(1, int(np.sum(starts + durations < seconds - silence)))
        return cls(
            starts[:number],
            durations[:number],
            rng.uniform(0.2, 0.4, number),
            rng.choice(3, number, p=(0.45, 0.3, 0.25)),
            rng.integers(len(_VOWELS), size=number),
            np.exp(rng.normal(0.0, 0.25, number)),
            rng.standard_normal(number),
        )

    def amplitudes(self, time: Signal) -> tuple[Signal, Signal]:
        """Amplitude of the voice and of the friction noise at ``time`` (T,)."""
        now = np.clip(np.searchsorted(self.starts, time, side="right") - 1, 0, None)  # (T,) syllable
        within = (time - self.starts[now]) / self.durations[now]  # (T,) 0 to 1 inside the syllable
        spoken = (within >= 0) & (within <= 1)
        onset, consonant = self.onsets[now], self.consonants[now]
        vowel = np.clip((within - onset) / (1 - onset), 0, 1)  # (T,) 0 to 1 inside the vowel
        voicing = self.stresses[now] * np.sqrt(np.sin(np.pi * vowel)) * (1 - 0.35 * vowel)
        in_onset = within < onset
        voicing = np.where(in_onset & (consonant == _SONORANT), 0.3, voicing)
        friction = np.where(consonant == _FRICATIVE, np.sin(np.pi * np.clip(within / onset, 0, 1)), 0.0)
        burst = (consonant == _STOP) & in_onset & (within > 0.7 * onset)
        friction = np.where(burst, 0.8, friction)
        smooth = np.ones(3) / 3  # nothing in a mouth moves faster than about 15 ms
        return tuple(np.convolve(track * spoken, smooth, mode="same") for track in (voicing, friction))  # type: ignore[return-value]

    def formants(self, time: Signal) -> Signal:
        """Five formant frequencies in Hz at ``time`` (T,), gliding from vowel to vowel: (T, 5)."""
        lower = [np.interp(time, self._nuclei, track) for track in _VOWELS[self.vowels].T]
        upper = [np.full(len(time), frequency) for frequency in _UPPER_FORMANTS]
        return np.stack(lower + upper, axis=1)

    def pitch(self, time: Signal, delivery: Delivery, rng: np.random.Generator) -> Signal:
        """Fundamental frequency in Hz at ``time`` (T,): accents on a slowly falling line, with jitter."""
        accents = np.interp(time, self._nuclei, self.accents)
        falling = 0.5 - time / time[-1]
        contour = delivery.pitch_range * (accents + 0.8 * falling)
        jitter = delivery.roughness * rng.standard_normal(len(time))
        return np.asarray(np.clip(delivery.pitch * np.exp(contour + jitter), 55.0, 650.0))

    @property
    def _nuclei(self) -> Signal:
        return self.starts + self.durations * (1 + self.onsets) / 2


def _upsample(track: Signal) -> Signal:
    """Control track (T + 1,) to samples (T * _STEP,), in straight lines."""
    ramp = np.arange(_STEP) / _STEP
    return np.asarray((track[:-1, None] + np.diff(track)[:, None] * ramp).ravel())


def _glottal_source(pitch: Signal, delivery: Delivery, noise: Signal, rng: np.random.Generator) -> Signal:
    """Differentiated glottal flow (after Rosenberg 1971) plus breath, for the pitch in Hz at each sample."""
    cycles = np.cumsum(pitch / SAMPLE_RATE)
    cycle = cycles.astype(np.int64)
    shimmer = np.exp(4 * delivery.roughness * rng.standard_normal(cycle[-1] + 1))
    opening = np.minimum((cycles - cycle) / 0.65, 1.0)  # the folds are open for 65% of a cycle
    flow = opening * opening * (1.0 - opening) * shimmer[cycle]
    # Differencing the integral of the pulse instead of sampling the pulse keeps aliasing low.
    pulses = np.diff(flow, prepend=0.0) * (SAMPLE_RATE / delivery.pitch / 4)
    pulses += delivery.breath * noise * (0.15 + flow)  # breath is loudest while the folds are open
    pole = np.exp(-2 * np.pi * delivery.cutoff / SAMPLE_RATE)
    return np.asarray(lfilter([1 - pole], [1, -pole], pulses))


def _vocal_tract(source: Signal, formants: Signal) -> Signal:
    """Run the source (T * _BLOCK * _STEP,) through a cascade of resonators with the formants (T, 5) in Hz.

    Each resonator is Klatt's, with unit gain at 0 Hz; its state is carried from block to block.
    """
    radius = np.exp(-np.pi * _BANDWIDTHS / SAMPLE_RATE)
    angle = 2 * np.pi * np.minimum(formants, 0.47 * SAMPLE_RATE) / SAMPLE_RATE
    sections = np.zeros((*formants.shape, 6))  # (T, 5, 6): b0 b1 b2 a0 a1 a2
    sections[..., 3] = 1.0
    sections[..., 4] = -2 * radius * np.cos(angle)
    sections[..., 5] = radius**2
    sections[..., 0] = sections[..., 3:].sum(axis=-1)
    state = np.zeros((formants.shape[1], 2))
    blocks = source.reshape(len(formants), -1)
    filtered = np.empty_like(blocks)
    for index, block in enumerate(blocks):
        filtered[index], state = sosfilt(sections[index], block, zi=state)
    return filtered.ravel()
