"""The synthesiser: control tracks, one value a tick, to sound (Klatt, JASA 67, 1980)."""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter1d

from data_pipeline.audio import SAMPLE_RATE
from data_pipeline.synthetic_phonemes import ACOUSTICS, TICK, TICKS_PER_SECOND
from data_pipeline.synthetic_script import Prosody


class Speaker(NamedTuple):
    """A voice, whatever it says and feels."""

    base_pitch: float  # Hz, the neutral voice's mean
    tract: float  # factor on every formant: 1 for a 17.5 cm vocal tract, more for a shorter one
    breathiness: float  # 0..1, aspiration mixed into the voice
    tempo: float  # factor on the speaking rate
    tilt: float  # dB that the glottal source loses at 3 kHz, relative to the average voice
    jitter: float  # relative standard deviation of the glottal period

    @classmethod
    def from_seed(cls, seed: int) -> "Speaker":
        """A man (45 %), a woman (45 %) or a child (10 %), the same one for the same seed."""
        rng = np.random.default_rng(seed)
        pitch, tract = _REGISTERS[rng.choice(3, p=(0.45, 0.45, 0.1))]
        return cls(
            base_pitch=float(rng.uniform(*pitch)),
            tract=float(rng.uniform(*tract)),
            breathiness=float(rng.uniform(0.03, 0.15)),
            tempo=float(rng.uniform(0.94, 1.06)),
            tilt=float(rng.uniform(-1.5, 1.5)),
            jitter=float(rng.uniform(0.002, 0.006)),
        )


_REGISTERS = (  # base pitch in Hz, vocal-tract factor
    ((95.0, 140.0), (0.96, 1.04)),
    ((175.0, 235.0), (1.12, 1.2)),
    ((245.0, 300.0), (1.24, 1.34)),
)


def smooth(values: np.ndarray, seconds: float) -> np.ndarray:
    return gaussian_filter1d(values, seconds * TICKS_PER_SECOND, axis=0, mode="nearest")


def blend(targets: np.ndarray, dominance: np.ndarray, seconds: float) -> np.ndarray:
    """Coarticulation: each moment is the mean of the targets around it, weighed by dominance."""
    return smooth(targets * dominance, seconds) / smooth(dominance, seconds)


def _extended(track: np.ndarray) -> np.ndarray:
    """The track with the value where its last tick ends."""
    return np.concatenate([track, track[-1:]])


def _tilt_coefficient(decibels: np.ndarray) -> np.ndarray:
    """The pole of the one-pole low-pass that loses so much at 3 kHz and nothing at 0."""
    power = 10.0 ** (-np.maximum(decibels, 0.1) / 10.0)
    p, q = 1.0 - power, 1.0 - power * np.cos(2 * np.pi * 3000.0 / SAMPLE_RATE)
    return (q - np.sqrt(q * q - p * p)) / p


@numba.njit(cache=True)
def _glottis(pitch, voice, breath, tilt, period_noise, pulse_noise, open_quotient, noise):
    """Derivative of the glottal flow (KLGLOTT88's cubic pulse) and aspiration, per sample."""
    ticks = len(pitch) - 1
    out = np.zeros(ticks * TICK)
    position, cycle, flow, filtered = 0.0, 0, 0.0, 0.0
    for tick in range(ticks):
        pole = tilt[tick]
        for i in range(TICK):
            x = i / TICK
            hz = pitch[tick] + x * (pitch[tick + 1] - pitch[tick])
            position += hz / SAMPLE_RATE / period_noise[cycle]
            if position >= 1.0:
                position -= 1.0
                cycle += 1
            previous = flow
            opened = position / open_quotient
            flow = 6.75 * opened * opened * (1.0 - opened) if opened < 1.0 else 0.0
            # The mean slope over the sample, so the closing edge does not alias.
            slope = (flow - previous) * pulse_noise[cycle] * SAMPLE_RATE / hz * 0.1
            filtered = (1.0 - pole) * slope + pole * filtered
            voiced = voice[tick] + x * (voice[tick + 1] - voice[tick])
            breathed = breath[tick] + x * (breath[tick + 1] - breath[tick])
            # A vibrating glottis lets the breath through while it is open.
            gate = 1.0 - 0.6 * min(voiced, 1.0) * (opened >= 1.0)
            out[tick * TICK + i] = voiced * filtered + breathed * gate * noise[tick * TICK + i]
    return out


@numba.njit(cache=True)
def _resonator(hz, bandwidth):
    c = -np.exp(-2.0 * np.pi * bandwidth / SAMPLE_RATE)
    b = 2.0 * np.exp(-np.pi * bandwidth / SAMPLE_RATE) * np.cos(2.0 * np.pi * hz / SAMPLE_RATE)
    return 1.0 - b - c, b, c


@numba.njit(cache=True)
def _cascade(signal, hz, bandwidth, nasal_zero):
    """The vocal tract for sounds made at the glottis: the nose, then formants in series.

    hz and bandwidth are (ticks + 1, formants), nasal_zero (ticks + 1,). The nose is a pole at
    270 Hz and a zero that cancels it when the velum is shut. Coefficients move with every sample:
    in steps, each would click.
    """
    count = hz.shape[1]
    now = np.empty((count, 3))
    step = np.empty((count, 3))
    state = np.zeros((count, 2))
    out = np.empty_like(signal)
    pole = _resonator(270.0, 100.0)
    x1, x2, y1, y2 = 0.0, 0.0, 0.0, 0.0
    for tick in range(len(hz) - 1):
        for k in range(count):
            start = _resonator(hz[tick, k], bandwidth[tick, k])
            end = _resonator(hz[tick + 1, k], bandwidth[tick + 1, k])
            for j in range(3):
                now[k, j] = start[j]
                step[k, j] = (end[j] - start[j]) / TICK
        zero = _resonator(nasal_zero[tick], 100.0)
        for n in range(tick * TICK, (tick + 1) * TICK):
            x = signal[n]
            y = pole[0] / zero[0] * (x - zero[1] * x1 - zero[2] * x2)
            y += pole[1] * y1 + pole[2] * y2
            x2, x1, y2, y1 = x1, x, y1, y
            for k in range(count):
                y = now[k, 0] * y + now[k, 1] * state[k, 0] + now[k, 2] * state[k, 1]
                state[k, 1] = state[k, 0]
                state[k, 0] = y
                for j in range(3):
                    now[k, j] += step[k, j]
            out[n] = y
    return out


@numba.njit(cache=True)
def _frication(amplitude, centre, bandwidth, bypass, gate, noise):
    """Noise at a constriction: one band-pass resonance in front of it beside an unshaped part."""
    ticks = len(amplitude) - 1
    out = np.empty(ticks * TICK)
    y1, y2 = 0.0, 0.0
    for tick in range(ticks):
        a, b, c = _resonator(centre[tick], bandwidth[tick])
        loudness = np.sqrt(bandwidth[tick] / SAMPLE_RATE)
        # Unit gain at the centre instead of at 0 Hz.
        w = 2.0 * np.pi * centre[tick] / SAMPLE_RATE
        real = 1.0 - b * np.cos(w) - c * np.cos(2.0 * w)
        imaginary = b * np.sin(w) + c * np.sin(2.0 * w)
        gain = np.sqrt(real * real + imaginary * imaginary) * 0.3 / loudness
        for i in range(TICK):
            n = tick * TICK + i
            x = i / TICK
            strength = amplitude[tick] + x * (amplitude[tick + 1] - amplitude[tick])
            y = gain * noise[n] + b * y1 + c * y2
            y2 = y1
            y1 = y
            out[n] = strength * gate[n] * ((1.0 - bypass[tick]) * y + bypass[tick] * noise[n] * 0.3)
    return out


def _formants(
    phase: np.ndarray, tract: float, nasality: np.ndarray, breath: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(ticks, 8) frequencies and bandwidths in Hz; those above the fourth are the tract's own."""
    weight = ACOUSTICS["pull"][phase][:, None]
    low = blend(ACOUSTICS["formants"][phase], weight, 0.02)
    high = np.broadcast_to([4500.0, 5500.0, 6500.0, 7500.0], low.shape)
    hz = np.concatenate([low, high], axis=1) * tract
    bandwidth = np.tile([60.0, 80.0, 130.0, 200.0, 280.0, 350.0, 450.0, 550.0], (len(hz), 1))
    bandwidth[:, 0] += 60.0 * nasality + 80.0 * np.minimum(breath, 1.0)  # open nose, open glottis
    # A short tract has fewer formants below 8 kHz.
    inside = hz.max(axis=0) < 7900.0
    return hz[:, inside], bandwidth[:, inside]


def synthesise(
    rng: np.random.Generator,
    phase: np.ndarray,
    pitch: np.ndarray,
    effort: np.ndarray,
    prosody: Prosody,
    speaker: Speaker,
) -> Float[np.ndarray, " n"]:
    """Sound of the phases, of which there is one per tick; its level is arbitrary."""
    field = {name: values[phase] for name, values in ACOUSTICS.items()}
    samples = len(phase) * TICK
    breath = prosody.breath + speaker.breathiness
    tremble = 1.0 + 0.4 * prosody.tremor * smooth(rng.standard_normal(len(phase)), 0.02)
    voice = smooth(field["voice"], 0.005) * effort * tremble
    aspiration = 0.12 * smooth(field["breath"] + field["voice"] * breath, 0.005) * effort
    tilt = prosody.tilt + speaker.tilt + smooth(field["muffle"], 0.005) - 6.0 * (effort - 1.0)
    nasality = np.clip(smooth(field["nasal"], 0.02) + prosody.nasal, 0.0, 1.0)

    cycles = int(pitch.max() * 1.5 * len(phase) / TICKS_PER_SECOND) + 8
    odd = np.resize([1.0, -1.0], cycles)
    wobble = np.clip(rng.standard_normal((2, cycles)), -3.0, 3.0)
    period = 1.0 + (speaker.jitter + prosody.jitter) * wobble[0] + 0.12 * prosody.creak * odd
    pulse = 1.0 + prosody.shimmer * wobble[1] - 0.5 * prosody.creak * (odd > 0)

    noise = rng.standard_normal((2, samples))
    noise[0, 1:] += noise[0, :-1].copy()  # breath is duller than the noise of a constriction
    glottis = _glottis(
        _extended(pitch), _extended(voice), _extended(aspiration),
        _tilt_coefficient(tilt), period, pulse, prosody.open_quotient, noise[0],
    )  # fmt: skip
    hz, bandwidth = _formants(phase, speaker.tract * prosody.spread, nasality, breath * voice)
    zero = 270.0 + 180.0 * nasality
    tract = _cascade(glottis, _extended(hz), _extended(bandwidth), _extended(zero))

    strength = field["noise"] * effort
    centre = np.minimum(field["band"][:, 0] * speaker.tract**0.5, 7000.0)
    # Voicing chops the air that reaches the constriction.
    chopped = np.repeat(field["voice"] > 0, TICK) * 0.5
    wave = np.sin(2 * np.pi * np.cumsum(np.repeat(pitch, TICK)) / SAMPLE_RATE)
    hiss = _frication(
        _extended(smooth(strength, 0.003)), centre, field["band"][:, 1], field["bypass"],
        1.0 + chopped * wave, noise[1],
    )  # fmt: skip
    return tract + 0.35 * hiss


def to_level(sound: np.ndarray, spoken: np.ndarray, decibels: float) -> np.ndarray:
    """int16 whose spoken part has this RMS in dB of full scale; peaks are bent, not clipped."""
    if not spoken.any():
        return np.zeros(len(sound), np.int16)
    scaled = sound * (10.0 ** (decibels / 20.0) / np.sqrt(np.mean(sound[spoken] ** 2)))
    knee, room = 0.6, 0.35
    over = np.maximum(np.abs(scaled) - knee, 0.0)
    bent = np.sign(scaled) * (np.minimum(np.abs(scaled), knee) + room * np.tanh(over / room))
    return np.round(bent * 32767.0).astype(np.int16)
