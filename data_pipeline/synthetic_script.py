"""What the synthetic voice says and how: random pronounceable words, and emotions' prosody."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from data_pipeline.synthetic_phonemes import (
    ACOUSTICS,
    FIRST_PHASE,
    IS_ASPIRATION,
    IS_VOWEL,
    LIPS_SHUT,
    PHONEMES,
    SILENCE,
    TICKS_PER_SECOND,
    VOWELS,
    names,
)


class Prosody(NamedTuple):
    """How an emotion speaks. Semitones are relative to the speaker's base pitch."""

    pitch: float = 0.0  # st, mean
    accent: float = 1.6  # st, height of the bump on a stressed syllable
    glide: float = 0.0  # st, slope within a stressed syllable
    slope: float = -2.0  # st, from the start to the end of a phrase
    ending: float = -1.5  # st, movement in the last syllable of a phrase
    level: float = 0.0  # dB
    rate: float = 1.0
    drawl: float = 1.3  # lengthening of the last syllable of a phrase
    breath: float = 0.0
    tilt: float = 5.0  # dB that the source loses at 3 kHz
    open_quotient: float = 0.6
    jitter: float = 0.0
    shimmer: float = 0.03
    tremor: float = 0.0  # st
    creak: float = 0.0  # 0..1, every second glottal pulse weak and late
    words: tuple[int, int] = (2, 4)  # in a phrase
    pause: tuple[float, float] = (0.16, 0.32)  # s, between phrases
    opening: float = 1.0  # factor on the vowels' mouth shapes
    spread: float = 1.0  # factor on the formants: a smile shortens the vocal tract
    nasal: float = 0.0


# fmt: off
_PROSODY = {
    #  pitch accent glide slope ending level  rate drawl breath  tilt  open jitter
    "angry": Prosody(
         4.5,   3.0, -3.0, -5.0,  -3.0,  5.5, 1.15,  1.1,   0.0,  0.5, 0.42, 0.016,
        shimmer=0.2, words=(2, 4), pause=(0.08, 0.18), opening=1.2,
    ),
    "contempt": Prosody(
        -1.0,   1.2, -3.5, -1.0,  -5.0, -2.5, 0.88,  1.9,  0.05,  6.0, 0.55, 0.002,
        words=(1, 2), pause=(0.25, 0.4), opening=0.85, nasal=0.25,
    ),
    "disgusted": Prosody(
        -3.0,   1.2, -1.0, -2.0,  -2.0, -2.0, 0.78,  1.3,   0.0,  4.0,  0.4,  0.02,
        shimmer=0.08, creak=0.7, words=(2, 3), pause=(0.2, 0.35), opening=0.9, spread=0.97,
        nasal=0.4,
    ),
    "fear": Prosody(
         7.0,   1.2,  0.0,  0.5,   0.5,  0.5,  1.3,  1.0,  0.35,  5.0, 0.65, 0.014,
        shimmer=0.1, tremor=0.8, words=(1, 2), pause=(0.08, 0.2), opening=0.95,
    ),
    "happy": Prosody(
         4.0,   5.0,  0.0, -0.5,   0.5,  3.0,  1.1,  1.2,  0.05,  3.5, 0.58,   0.0,
        words=(3, 5), pause=(0.1, 0.22), opening=1.1, spread=1.05,
    ),
    "neutral": Prosody(),
    "sad": Prosody(
        -1.5,   0.7, -0.5, -1.8,  -1.0, -6.5, 0.72,  1.4,   0.6, 14.0, 0.75, 0.004,
        words=(1, 3), pause=(0.35, 0.6), opening=0.75,
    ),
    "surprised": Prosody(
         3.5,   2.0,  4.5,  1.0,   7.0,  2.0,  1.0,  1.5,  0.12,  5.0,  0.6,   0.0,
        words=(1, 2), pause=(0.2, 0.35), opening=1.15,
    ),
}


def draw_prosody(rng: np.random.Generator, emotion: str) -> Prosody:
    """The emotion's prosody at an intensity that varies from clip to clip, and never alike."""
    neutral, full = _PROSODY["neutral"], _PROSODY[emotion]
    intensity = rng.uniform(0.7, 1.1)
    drawn = {}
    for field, target in full._asdict().items():
        rest = getattr(neutral, field)
        if isinstance(target, float):
            drawn[field] = rest + (intensity + rng.uniform(-0.1, 0.1)) * (target - rest)
    return full._replace(**drawn)


_ONSETS = names("p b t d k g m n f v th dh s z sh ch jh h w y r l p b m f v m b p w")
_ONSET_CLUSTERS = names("pr pl br bl tr dr kr kl gr gl fr fl sp st sk sm sn sl sw tw kw")
_CODAS = names("m n ng p t k d g s z f v th sh ch l r n t s m")
_CODA_CLUSTERS = ("n t", "n d", "s t", "m p", "k s", "l d", "r t", "f t", "p s", "n z")
_WEAK_VOWELS = ("ah", "ih", "er", "ah", "iy")


class _Syllable(NamedTuple):
    phonemes: list[str]
    stress: float  # 1 in the word's strong syllable, less elsewhere


class Script(NamedTuple):
    """Phases in time. Arrays have one entry per phase; syllable -1 is silence."""

    phase: Int[np.ndarray, " s"]
    label: Int[np.ndarray, " s"]  # phoneme
    ticks: Int[np.ndarray, " s"]
    syllable: Int[np.ndarray, " s"]
    stress: Float[np.ndarray, " s"]
    phrase: Int[np.ndarray, " y"]  # per syllable


def _word(rng: np.random.Generator) -> list[_Syllable]:
    count = rng.choice(3, p=(0.4, 0.42, 0.18)) + 1
    strong = rng.integers(count)
    return [_syllable(rng, i == strong, first=i == 0) for i in range(count)]


def _syllable(rng: np.random.Generator, strong: bool, first: bool) -> _Syllable:
    onset, coda = rng.random(2)
    phonemes: list[str] = []
    if onset < 0.15 and strong:
        phonemes += list(_ONSET_CLUSTERS[rng.integers(len(_ONSET_CLUSTERS))])
    elif onset < 0.9 or not first:
        phonemes.append(_ONSETS[rng.integers(len(_ONSETS))])
    vowels = VOWELS if strong else _WEAK_VOWELS
    phonemes.append(vowels[rng.integers(len(vowels))])
    if coda < 0.08:
        phonemes += _CODA_CLUSTERS[rng.integers(len(_CODA_CLUSTERS))].split()
    elif coda < 0.4:
        phonemes.append(_CODAS[rng.integers(len(_CODAS))])
    return _Syllable(phonemes, float(rng.uniform(0.85, 1.0) if strong else rng.uniform(0.3, 0.55)))


def _phases(syllable: _Syllable, rate: float, lengthen: float) -> list[tuple[int, int, int]]:
    """The syllable's (phase, phoneme, ticks)."""
    out = []
    for name in syllable.phonemes:
        phoneme = PHONEMES.index(name)
        for phase in range(FIRST_PHASE[phoneme], FIRST_PHASE[phoneme + 1]):
            out.append((phase, phoneme, _ticks(phase, syllable.stress, rate, lengthen)))
    # Aspiration is the vowel's voiceless onset: a frame called p shows closed lips.
    for i, (phase, _, ticks) in enumerate(out[:-1]):
        if IS_ASPIRATION[phase]:
            out[i] = (phase, out[i + 1][1], ticks)
    if IS_ASPIRATION[out[-1][0]]:
        out.pop()  # a final stop is released without it
    return out


def _ticks(phase: int, stress: float, rate: float, lengthen: float) -> int:
    """Length of a phase: haste shortens vowels fully and consonants half."""
    ms = ACOUSTICS["milliseconds"][phase]
    if IS_VOWEL[phase]:
        ms *= (0.45 + 0.6 * stress) * lengthen / rate
    elif ms > 25:  # a burst has its own length
        ms *= lengthen**0.5 / rate**0.5
    # Lips that close must be shut in the middle of at least one 40 ms frame.
    least = 12 if LIPS_SHUT[phase] and ms > 25 else 1
    return max(least, round(ms * TICKS_PER_SECOND / 1000))


def write_script(
    text: np.random.Generator,
    style: np.random.Generator,
    prosody: Prosody,
    tempo: float,
    total: int,
) -> Script:
    """Phrases of words until `total` ticks are full; the end is cut at a syllable."""
    rows: list[tuple[int, int, int, int, float]] = []
    phrases: list[int] = []
    used = 0

    def pause(ticks: int) -> None:
        rows.append((SILENCE, SILENCE, ticks, -1, 0.0))

    def speak_phrase(number: int, room: int) -> int:
        words = style.integers(prosody.words[0], prosody.words[1] + 1)
        syllables = [syllable for _ in range(words) for syllable in _word(text)]
        spoken = 0
        for i, syllable in enumerate(syllables):
            lengthen = prosody.drawl if i == len(syllables) - 1 else 1.0
            phases = _phases(syllable, prosody.rate * tempo, lengthen)
            ticks = sum(row[2] for row in phases)
            if spoken + ticks > room:
                return room + 1
            rows.extend((*row, len(phrases), syllable.stress) for row in phases)
            phrases.append(number)
            spoken += ticks
        return spoken

    seconds = total / TICKS_PER_SECOND
    lead = round(min(style.uniform(0.06, 0.16), 0.1 * seconds) * TICKS_PER_SECOND)
    tail = round(min(style.uniform(0.08, 0.2), 0.1 * seconds) * TICKS_PER_SECOND)
    pause(lead)
    used = lead + tail
    number = 0
    while used < total:
        used += speak_phrase(number, total - used)
        gap = round(style.uniform(*prosody.pause) * TICKS_PER_SECOND)
        if used + gap < total:
            pause(gap)
        used += gap
        number += 1
    pause(total - sum(row[2] for row in rows))
    phase, label, ticks, syllable, stress = (np.array(column) for column in zip(*rows, strict=True))
    return Script(phase, label, ticks, syllable, stress, np.array(phrases, np.int64))
