"""The voice of the synthetic world: babble whose words, emotion and articulation are known.

A clip is made in four steps. A script of random pronounceable words is laid out on a grid of
5 ms ticks; the emotion's prosody gives it durations, pauses, a pitch contour and a voice quality;
a Klatt-type source-filter synthesiser speaks it (Klatt, "Software for a cascade/parallel formant
synthesizer", JASA 67, 1980); and visemes with dominance functions (Cohen & Massaro, 1993) give the
articulation. Sound and mouth come from the same script, so the articulation curves are the truth
for the sound. How emotion shapes the prosody follows Scherer, "Vocal communication of emotion",
Speech Communication 40 (2003); the numbers are set so that the eight emotions can be told apart
by a listener who does not know the speaker.
"""

from typing import NamedTuple

import numba
import numpy as np
from jaxtyping import Float, Float32, Int, Int16, Int32
from scipy.ndimage import gaussian_filter1d

from data_pipeline.audio import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError

TICK = 80  # samples between two values of a control track: 5 ms, as in Klatt's synthesiser
TICKS_PER_FRAME = SAMPLES_PER_FRAME // TICK
TICKS_PER_SECOND = SAMPLE_RATE // TICK


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VOWELS = _names("iy ih eh ae aa ao uh uw ah er ey ay ow")
CONSONANTS = _names("p b t d k g m n ng f v th dh s z sh ch jh h w y r l")
PHONEMES = ("sil", *VOWELS, *CONSONANTS)
SILENCE = 0


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


class Utterance(NamedTuple):
    """T frames at 25 fps. Frame t describes samples [640 t, 640 (t + 1)), by its middle."""

    audio: Int16[np.ndarray, " n"]  # 16 kHz, N = 640 T
    phonemes: Int32[np.ndarray, " t"]  # index into PHONEMES, 0 = silence
    articulation: dict[str, np.ndarray]  # MODES -> float32 (T,) in [0, 1]
    energy: Float32[np.ndarray, " t"]  # RMS of the frame's samples, full scale = 1
    pitch: Float32[np.ndarray, " t"]  # Hz, 0 where unvoiced


_REGISTERS = (  # base pitch in Hz, vocal-tract factor
    ((95.0, 140.0), (0.96, 1.04)),
    ((175.0, 235.0), (1.12, 1.2)),
    ((245.0, 300.0), (1.24, 1.34)),
)


# ------------------------------------------------------------------------------------ articulation

# The modes that speech moves, by their ICT-FaceKit / ARKit names, as that model's coefficients.
MODES = (
    "jawOpen",
    "mouthClose",
    "mouthFunnel",
    "mouthPucker",
    "mouthStretch_L",
    "mouthStretch_R",
    "mouthRollLower",
    "mouthRollUpper",
    "mouthUpperUp_L",
    "mouthUpperUp_R",
    "mouthLowerDown_L",
    "mouthLowerDown_R",
    "mouthPress_L",
    "mouthPress_R",
    "mouthShrugLower",
)


class _Viseme(NamedTuple):
    """Mouth shape of a sound and how strongly it is defended against its neighbours.

    `pull` weighs the modes that `shape` names; `yields` weighs the others, whose target is 0: a
    consonant made with the tongue lets the vowel's lip rounding pass through. mouthClose is here
    the share of the jaw's opening that the lips undo; `_articulate` makes it the coefficient.
    """

    pull: float
    yields: float
    shape: dict[str, float]


def _both(**sides: float) -> dict[str, float]:
    return {f"{name}_{side}": value for name, value in sides.items() for side in "LR"}


def _vowel(jaw: float, funnel=0.0, pucker=0.0, stretch=0.0, upper=0.0, lower=0.0) -> _Viseme:
    lips = _both(mouthStretch=stretch, mouthUpperUp=upper, mouthLowerDown=lower)
    return _Viseme(1.0, 1.0, {"jawOpen": jaw, "mouthFunnel": funnel, "mouthPucker": pucker, **lips})


def _sealed(press: float) -> _Viseme:
    shape = {"jawOpen": 0.06, "mouthClose": 0.85, "mouthRollLower": 0.15, "mouthRollUpper": 0.12}
    lips = {"mouthFunnel": 0.0} | _both(mouthPress=press, mouthUpperUp=0.0, mouthLowerDown=0.0)
    return _Viseme(15.0, 0.15, shape | lips)


_LIP_TO_TEETH = _Viseme(
    15.0,
    0.15,
    {"jawOpen": 0.12, "mouthClose": 0.35, "mouthRollLower": 0.75}
    | _both(mouthUpperUp=0.35, mouthLowerDown=0.0),
)
_HISS = _Viseme(2.5, 0.2, {"jawOpen": 0.07} | _both(mouthStretch=0.4, mouthLowerDown=0.3))
_HUSH = _Viseme(
    2.5, 0.4, {"jawOpen": 0.1, "mouthFunnel": 0.65, "mouthPucker": 0.3, "mouthShrugLower": 0.2}
)
_TONGUE_TIP = _Viseme(1.2, 0.15, {"jawOpen": 0.15} | _both(mouthLowerDown=0.15))
_TONGUE_BACK = _Viseme(0.8, 0.15, {"jawOpen": 0.24})

_VISEMES: dict[str, _Viseme] = {
    "sil": _Viseme(1.0, 1.0, {"jawOpen": 0.02, "mouthClose": 0.6}),
    "iy": _vowel(0.14, stretch=0.55, upper=0.12, lower=0.25),
    "ih": _vowel(0.22, stretch=0.35, upper=0.12, lower=0.25),
    "eh": _vowel(0.36, stretch=0.3, upper=0.18, lower=0.3),
    "ae": _vowel(0.54, stretch=0.35, upper=0.28, lower=0.42),
    "aa": _vowel(0.66, upper=0.2, lower=0.38),
    "ao": _vowel(0.46, funnel=0.55, pucker=0.1),
    "uh": _vowel(0.22, funnel=0.3, pucker=0.35),
    "uw": _vowel(0.16, funnel=0.25, pucker=0.85),
    "ah": _vowel(0.42, upper=0.1, lower=0.22),
    "er": _vowel(0.25, funnel=0.35, pucker=0.1),
    "o": _vowel(0.4, funnel=0.6, pucker=0.25),
    "p": _sealed(0.65),
    "b": _sealed(0.5),
    "m": _sealed(0.4),
    "f": _LIP_TO_TEETH,
    "v": _LIP_TO_TEETH,
    "th": _Viseme(1.5, 0.15, {"jawOpen": 0.2} | _both(mouthUpperUp=0.12, mouthLowerDown=0.25)),
    "s": _HISS,
    "sh": _HUSH,
    "t": _TONGUE_TIP,
    "k": _TONGUE_BACK,
    "h": _Viseme(0.1, 0.1, {"jawOpen": 0.3}),
    "w": _Viseme(3.0, 1.0, {"jawOpen": 0.1, "mouthPucker": 0.95, "mouthFunnel": 0.2}),
    "y": _vowel(0.15, stretch=0.45, upper=0.1, lower=0.2),
    "r": _Viseme(1.2, 0.3, {"jawOpen": 0.2, "mouthFunnel": 0.45, "mouthPucker": 0.2}),
    "l": _Viseme(1.0, 0.15, {"jawOpen": 0.28} | _both(mouthLowerDown=0.2)),
}


# ------------------------------------------------------------------------------------------ sounds


class _Phase(NamedTuple):
    """One acoustically steady part of a phoneme; stops, affricates and diphthongs have several."""

    formants: tuple[float, float, float, float]  # Hz, man's vocal tract
    milliseconds: float
    viseme: str
    pull: float = 1.0  # how strongly the formants are defended against the neighbours'
    voice: float = 0.0
    breath: float = 0.0  # noise at the glottis
    noise: float = 0.0  # noise at the constriction
    band: tuple[float, float] = (3000.0, 3000.0)  # its centre and bandwidth, Hz
    bypass: float = 0.0  # share of that noise which no cavity shapes
    nasal: float = 0.0
    muffle: float = 0.0  # dB more tilt of the voice: what a closed or narrowed mouth takes


def _open(viseme: str, f1, f2, f3, f4, milliseconds=125.0, voice=1.0) -> _Phase:
    return _Phase((f1, f2, f3, f4), milliseconds, viseme, voice=voice)


def _nasal(viseme: str, f2: float, f3: float) -> _Phase:
    formants = (280, f2, f3, 3300)
    return _Phase(formants, 75, viseme, pull=3.0, voice=0.55, nasal=1.0, muffle=6.0)


def _fricative(viseme, locus, milliseconds, noise, band, bypass, voice=0.0) -> _Phase:
    formants = (300, *locus)
    return _Phase(formants, milliseconds, viseme, 2.0, voice, 0, noise, band, bypass, muffle=6.0)


def _stop(viseme, locus, burst, band, voiced, noise, closure=65.0) -> tuple[_Phase, ...]:
    """Closure (with a voice bar when voiced), burst and, when voiceless, aspiration."""
    formants = (260, *locus)
    shut = _Phase(formants, closure, viseme, 2.0, voice=0.22 * voiced, muffle=22.0)
    release = _Phase(formants, burst, viseme, 2.0, 0.2 * voiced, 0.0, noise, band, bypass=0.1)
    return (shut, release) if voiced else (shut, release, _ASPIRATION)


_ASPIRATION = _Phase((500, 1500, 2500, 3500), 35, "h", pull=0.05, breath=0.5)
_LABIAL, _ALVEOLAR, _VELAR = (850, 2200, 3300), (1750, 2650, 3500), (1900, 2300, 3400)
_HISS_BAND, _HUSH_BAND, _WEAK_BAND = (5600.0, 900.0), (2800.0, 600.0), (4500.0, 6000.0)

# Formants of the vowels: Peterson & Barney (1952), men, with F4 after Klatt (1980).
_SOUNDS: dict[str, tuple[_Phase, ...]] = {
    "sil": (_Phase((500, 1500, 2500, 3500), 0, "sil", pull=0.05),),
    "iy": (_open("iy", 280, 2250, 2950, 3550),),
    "ih": (_open("ih", 400, 1950, 2550, 3550, 105),),
    "eh": (_open("eh", 540, 1800, 2500, 3550),),
    "ae": (_open("ae", 680, 1680, 2450, 3550, 145),),
    "aa": (_open("aa", 740, 1120, 2450, 3500, 145),),
    "ao": (_open("ao", 570, 860, 2420, 3400, 140),),
    "uh": (_open("uh", 450, 1050, 2250, 3400, 105),),
    "uw": (_open("uw", 310, 880, 2250, 3350),),
    "ah": (_open("ah", 630, 1230, 2400, 3500, 105),),
    "er": (_open("er", 490, 1350, 1700, 3300, 130),),
    "ey": (_open("eh", 480, 1950, 2550, 3550, 75), _open("iy", 330, 2200, 2800, 3550, 70)),
    "ay": (_open("aa", 710, 1200, 2450, 3500, 90), _open("ih", 400, 1980, 2600, 3550, 75)),
    "ow": (_open("o", 500, 950, 2400, 3400, 75), _open("uw", 370, 850, 2300, 3350, 70)),
    "p": _stop("p", _LABIAL, 10, (900, 1500), 0, 0.35, 70),
    "b": _stop("b", _LABIAL, 10, (900, 1500), 1, 0.3, 65),
    "t": _stop("t", _ALVEOLAR, 12, (4300, 1800), 0, 0.5, 55),
    "d": _stop("t", _ALVEOLAR, 10, (4000, 1800), 1, 0.4, 50),
    "k": _stop("k", _VELAR, 20, (1950, 500), 0, 0.45, 55),
    "g": _stop("k", _VELAR, 15, (1950, 500), 1, 0.4, 50),
    "m": (_nasal("m", 1100, 2200),),
    "n": (_nasal("t", 1500, 2500),),
    "ng": (_nasal("k", 2000, 2700),),
    "f": (_fricative("f", (1000, 2200, 3400), 90, 0.22, _WEAK_BAND, 0.6),),
    "v": (_fricative("v", (1000, 2200, 3400), 70, 0.12, _WEAK_BAND, 0.6, 0.45),),
    "th": (_fricative("th", (1350, 2550, 3500), 85, 0.16, (6200.0, 3500.0), 0.5),),
    "dh": (_fricative("th", (1350, 2550, 3500), 55, 0.08, (6200.0, 3500.0), 0.5, 0.5),),
    "s": (_fricative("s", (1650, 2600, 3500), 100, 0.6, _HISS_BAND, 0.03),),
    "z": (_fricative("s", (1650, 2600, 3500), 80, 0.4, _HISS_BAND, 0.03, 0.4),),
    "sh": (_fricative("sh", (1850, 2500, 3400), 100, 0.6, _HUSH_BAND, 0.05),),
    "ch": (
        _Phase((260, 1850, 2500, 3400), 45, "sh", 2.0),
        _fricative("sh", (1850, 2500, 3400), 70, 0.6, _HUSH_BAND, 0.05),
    ),
    "jh": (
        _Phase((260, 1850, 2500, 3400), 40, "sh", 2.0, voice=0.22, muffle=22.0),
        _fricative("sh", (1850, 2500, 3400), 55, 0.4, _HUSH_BAND, 0.05, 0.4),
    ),
    "h": (_Phase((500, 1500, 2500, 3500), 60, "h", pull=0.05, breath=0.5),),
    "w": (_Phase((300, 650, 2200, 3300), 65, "w", 2.0, voice=0.7, muffle=3.0),),
    "y": (_Phase((270, 2250, 2950, 3550), 60, "y", 2.0, voice=0.75, muffle=1.0),),
    "r": (_Phase((330, 1150, 1600, 3200), 65, "r", 2.0, voice=0.75, muffle=2.0),),
    "l": (_Phase((350, 1050, 2800, 3400), 65, "l", 2.0, voice=0.75, muffle=3.0),),
}

_PHASES = tuple(phase for name in PHONEMES for phase in _SOUNDS[name])
_FIRST_PHASE = np.cumsum([0] + [len(_SOUNDS[name]) for name in PHONEMES])
_IS_ASPIRATION = np.array([phase is _ASPIRATION for phase in _PHASES])
_ACOUSTICS = {
    field: np.array([getattr(phase, field) for phase in _PHASES], np.float64)
    for field in _Phase._fields
    if field != "viseme"
}
_SHAPE = np.array(
    [[_VISEMES[phase.viseme].shape.get(mode, 0.0) for mode in MODES] for phase in _PHASES]
)
_DOMINANCE = np.array(
    [
        [viseme.pull if mode in viseme.shape else viseme.yields for mode in MODES]
        for viseme in (_VISEMES[phase.viseme] for phase in _PHASES)
    ]
)
_IS_VOWEL = np.isin(np.repeat(PHONEMES, np.diff(_FIRST_PHASE)), VOWELS)
_LIPS_SHUT = np.isin([phase.viseme for phase in _PHASES], ("p", "b", "m"))


# --------------------------------------------------------------------------------------- prosody


class _Prosody(NamedTuple):
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
    "angry": _Prosody(
         4.5,   3.0, -3.0, -5.0,  -3.0,  5.5, 1.15,  1.1,   0.0,  0.5, 0.42, 0.016,
        shimmer=0.2, words=(2, 4), pause=(0.08, 0.18), opening=1.2,
    ),
    "contempt": _Prosody(
        -1.0,   1.2, -3.5, -1.0,  -5.0, -2.5, 0.88,  1.9,  0.05,  6.0, 0.55, 0.002,
        words=(1, 2), pause=(0.25, 0.4), opening=0.85, nasal=0.25,
    ),
    "disgusted": _Prosody(
        -3.0,   1.2, -1.0, -2.0,  -2.0, -2.0, 0.78,  1.3,   0.0,  4.0,  0.4,  0.02,
        shimmer=0.08, creak=0.7, words=(2, 3), pause=(0.2, 0.35), opening=0.9, spread=0.97,
        nasal=0.4,
    ),
    "fear": _Prosody(
         7.0,   1.2,  0.0,  0.5,   0.5,  0.5,  1.3,  1.0,  0.35,  5.0, 0.65, 0.014,
        shimmer=0.1, tremor=0.8, words=(1, 2), pause=(0.08, 0.2), opening=0.95,
    ),
    "happy": _Prosody(
         4.0,   5.0,  0.0, -0.5,   0.5,  3.0,  1.1,  1.2,  0.05,  3.5, 0.58,   0.0,
        words=(3, 5), pause=(0.1, 0.22), opening=1.1, spread=1.05,
    ),
    "neutral": _Prosody(),
    "sad": _Prosody(
        -1.5,   0.7, -0.5, -1.8,  -1.0, -6.5, 0.72,  1.4,   0.6, 14.0, 0.75, 0.004,
        words=(1, 3), pause=(0.35, 0.6), opening=0.75,
    ),
    "surprised": _Prosody(
         3.5,   2.0,  4.5,  1.0,   7.0,  2.0,  1.0,  1.5,  0.12,  5.0,  0.6,   0.0,
        words=(1, 2), pause=(0.2, 0.35), opening=1.15,
    ),
}
# fmt: on


def _draw_prosody(rng: np.random.Generator, emotion: str) -> _Prosody:
    """The emotion's prosody at an intensity that varies from clip to clip, and never alike."""
    neutral, full = _PROSODY["neutral"], _PROSODY[emotion]
    intensity = rng.uniform(0.7, 1.1)
    drawn = {}
    for field, target in full._asdict().items():
        rest = getattr(neutral, field)
        if isinstance(target, float):
            drawn[field] = rest + (intensity + rng.uniform(-0.1, 0.1)) * (target - rest)
    return full._replace(**drawn)


# ------------------------------------------------------------------------------------- the script

_ONSETS = _names("p b t d k g m n f v th dh s z sh ch jh h w y r l p b m f v m b p w")
_ONSET_CLUSTERS = _names("pr pl br bl tr dr kr kl gr gl fr fl sp st sk sm sn sl sw tw kw")
_CODAS = _names("m n ng p t k d g s z f v th sh ch l r n t s m")
_CODA_CLUSTERS = ("n t", "n d", "s t", "m p", "k s", "l d", "r t", "f t", "p s", "n z")
_WEAK_VOWELS = ("ah", "ih", "er", "ah", "iy")


class _Syllable(NamedTuple):
    phonemes: list[str]
    stress: float  # 1 in the word's strong syllable, less elsewhere


class _Script(NamedTuple):
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
        for phase in range(_FIRST_PHASE[phoneme], _FIRST_PHASE[phoneme + 1]):
            out.append((phase, phoneme, _ticks(phase, syllable.stress, rate, lengthen)))
    # Aspiration is the vowel's voiceless onset: a frame called p shows closed lips.
    for i, (phase, _, ticks) in enumerate(out[:-1]):
        if _IS_ASPIRATION[phase]:
            out[i] = (phase, out[i + 1][1], ticks)
    if _IS_ASPIRATION[out[-1][0]]:
        out.pop()  # a final stop is released without it
    return out


def _ticks(phase: int, stress: float, rate: float, lengthen: float) -> int:
    """Length of a phase: haste shortens vowels fully and consonants half."""
    ms = _ACOUSTICS["milliseconds"][phase]
    if _IS_VOWEL[phase]:
        ms *= (0.45 + 0.6 * stress) * lengthen / rate
    elif ms > 25:  # a burst has its own length
        ms *= lengthen**0.5 / rate**0.5
    # Lips that close must be shut in the middle of at least one 40 ms frame.
    least = 12 if _LIPS_SHUT[phase] and ms > 25 else 1
    return max(least, round(ms * TICKS_PER_SECOND / 1000))


def _write_script(
    text: np.random.Generator,
    style: np.random.Generator,
    prosody: _Prosody,
    tempo: float,
    total: int,
) -> _Script:
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
    return _Script(phase, label, ticks, syllable, stress, np.array(phrases, np.int64))


# ------------------------------------------------------------------------- tracks: one value a tick


def _smooth(values: np.ndarray, seconds: float) -> np.ndarray:
    return gaussian_filter1d(values, seconds * TICKS_PER_SECOND, axis=0, mode="nearest")


def _blend(targets: np.ndarray, dominance: np.ndarray, seconds: float) -> np.ndarray:
    """Coarticulation: each moment is the mean of the targets around it, weighed by dominance."""
    return _smooth(targets * dominance, seconds) / _smooth(dominance, seconds)


def _extended(track: np.ndarray) -> np.ndarray:
    """The track with the value where its last tick ends."""
    return np.concatenate([track, track[-1:]])


def _position(script: _Script, of_tick: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per tick: where it is in its syllable and in its phrase, 0 at the start, 1 at the end."""

    def within(group: np.ndarray) -> np.ndarray:
        if len(group) == 0:
            return np.zeros(0)
        start = np.flatnonzero(np.diff(group, prepend=group[0] - 1))
        length = np.diff(start, append=len(group))
        return (np.arange(len(group)) - np.repeat(start, length)) / np.repeat(length, length)

    spoken = script.syllable[of_tick] >= 0
    syllable = script.syllable[of_tick][spoken]
    position = np.zeros((2, len(of_tick)))
    position[0, spoken] = within(syllable)
    position[1, spoken] = within(script.phrase[syllable])
    return position[0], position[1]


def _contour(
    rng: np.random.Generator, script: _Script, of_tick: np.ndarray, prosody: _Prosody
) -> np.ndarray:
    """Semitones above the speaker's base pitch, one per tick."""
    in_syllable, in_phrase = _position(script, of_tick)
    count = len(script.phrase)
    last = np.diff(script.phrase, append=-1) != 0
    height = prosody.accent * rng.uniform(0.7, 1.3, count + 1)  # entry -1 is silence
    ending = prosody.ending * rng.uniform(0.8, 1.2, count + 1) * np.append(last, False)
    syllable = script.syllable[of_tick]
    stress = script.stress[of_tick]
    contour = (
        prosody.pitch
        + prosody.slope * (in_phrase - 0.5)
        + height[syllable] * (1.5 * stress * np.sin(np.pi * in_syllable) - 0.6)
        + prosody.glide * stress * (in_syllable - 0.5)
        + ending[syllable] * in_syllable
    )
    quiet = syllable < 0
    voiced = np.flatnonzero(~quiet)
    if len(voiced):  # a pause keeps the pitch of its ends: no jump to smooth into the voice
        contour = np.interp(np.arange(len(contour)), voiced, contour[voiced])
    drift = _smooth(rng.standard_normal(len(contour)), 0.15) * 1.2
    phase = 2 * np.pi * rng.uniform(6.5, 8.5) * np.arange(len(contour)) / TICKS_PER_SECOND
    return _smooth(contour, 0.025) + drift + prosody.tremor * np.sin(phase + rng.uniform(0, 6.28))


def _articulate(
    script: _Script, of_tick: np.ndarray, effort: np.ndarray, opening: float
) -> np.ndarray:
    """(ticks, modes): visemes blended by dominance; louder vowels open wider."""
    phase = script.phase[of_tick]
    gain = np.where(_IS_VOWEL[phase], opening * effort, 1.0)
    curves = _blend(_SHAPE[phase] * gain[:, None], _DOMINANCE[phase], 0.028)
    # In ICT-FaceKit 0.85 of mouthClose undoes one jawOpen, and 0.02 the rest pose's gap.
    jaw, close = MODES.index("jawOpen"), MODES.index("mouthClose")
    curves[:, close] *= 0.02 + 0.85 * curves[:, jaw]
    return np.clip(curves, 0.0, 1.0)


# -------------------------------------------------------------------------------- the synthesiser


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
    weight = _ACOUSTICS["pull"][phase][:, None]
    low = _blend(_ACOUSTICS["formants"][phase], weight, 0.02)
    high = np.broadcast_to([4500.0, 5500.0, 6500.0, 7500.0], low.shape)
    hz = np.concatenate([low, high], axis=1) * tract
    bandwidth = np.tile([60.0, 80.0, 130.0, 200.0, 280.0, 350.0, 450.0, 550.0], (len(hz), 1))
    bandwidth[:, 0] += 60.0 * nasality + 80.0 * np.minimum(breath, 1.0)  # open nose, open glottis
    # A short tract has fewer formants below 8 kHz.
    inside = hz.max(axis=0) < 7900.0
    return hz[:, inside], bandwidth[:, inside]


def _synthesise(
    rng: np.random.Generator,
    phase: np.ndarray,
    pitch: np.ndarray,
    effort: np.ndarray,
    prosody: _Prosody,
    speaker: Speaker,
) -> Float[np.ndarray, " n"]:
    """Sound of the phases, of which there is one per tick; its level is arbitrary."""
    field = {name: values[phase] for name, values in _ACOUSTICS.items()}
    samples = len(phase) * TICK
    breath = prosody.breath + speaker.breathiness
    tremble = 1.0 + 0.4 * prosody.tremor * _smooth(rng.standard_normal(len(phase)), 0.02)
    voice = _smooth(field["voice"], 0.005) * effort * tremble
    aspiration = 0.12 * _smooth(field["breath"] + field["voice"] * breath, 0.005) * effort
    tilt = prosody.tilt + speaker.tilt + _smooth(field["muffle"], 0.005) - 6.0 * (effort - 1.0)
    nasality = np.clip(_smooth(field["nasal"], 0.02) + prosody.nasal, 0.0, 1.0)

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
        _extended(_smooth(strength, 0.003)), centre, field["band"][:, 1], field["bypass"],
        1.0 + chopped * wave, noise[1],
    )  # fmt: skip
    return tract + 0.35 * hiss


def _to_level(sound: np.ndarray, spoken: np.ndarray, decibels: float) -> np.ndarray:
    """int16 whose spoken part has this RMS in dB of full scale; peaks are bent, not clipped."""
    if not spoken.any():
        return np.zeros(len(sound), np.int16)
    scaled = sound * (10.0 ** (decibels / 20.0) / np.sqrt(np.mean(sound[spoken] ** 2)))
    knee, room = 0.6, 0.35
    over = np.maximum(np.abs(scaled) - knee, 0.0)
    bent = np.sign(scaled) * (np.minimum(np.abs(scaled), knee) + room * np.tanh(over / room))
    return np.round(bent * 32767.0).astype(np.int16)


# -------------------------------------------------------------------------------------- utterance

_LEVEL = -20.5  # dBFS of neutral speech


def utter(seed: int, emotion: str, seconds: float, speaker: Speaker) -> Utterance:
    """Random words in a speaker's voice and a given emotion, with the mouth that says them.

    The same arguments give the same clip; a seed has the same words in every emotion, as many as
    its tempo leaves room for. T = round(25 seconds); a clip too short for a syllable is silent.

    Raises:
        InputError: an unknown emotion, or less than one frame.
    """
    if emotion not in EMOTIONS:
        raise InputError(f"There is no emotion {emotion!r}: take one of {', '.join(EMOTIONS)}.")
    frames = round(seconds * FPS)
    if frames < 1:
        raise InputError(f"{seconds} s is less than one frame: ask for at least {1 / FPS} s.")
    text = np.random.default_rng([seed, 0])
    style = np.random.default_rng([seed, 1 + EMOTIONS.index(emotion)])
    prosody = _draw_prosody(style, emotion)

    script = _write_script(text, style, prosody, speaker.tempo, frames * TICKS_PER_FRAME)
    of_tick = np.repeat(np.arange(len(script.ticks)), script.ticks)
    phase = script.phase[of_tick]
    semitones = _contour(style, script, of_tick, prosody)
    pitch = np.clip(speaker.base_pitch * 2.0 ** (semitones / 12.0), 55.0, 620.0)
    _, in_phrase = _position(script, of_tick)
    loudness = 1.0 + 0.35 * (script.stress[of_tick] - 0.7) - 0.25 * (in_phrase - 0.5)
    effort = _smooth(np.where(script.syllable[of_tick] < 0, 1.0, loudness), 0.03)

    sound = _synthesise(style, phase, pitch, effort, prosody, speaker)
    spoken = np.repeat(script.syllable[of_tick] >= 0, TICK)
    level = _LEVEL + prosody.level + style.uniform(-1.0, 1.0)
    audio = _to_level(sound, spoken, level)

    curves = _articulate(script, of_tick, effort, prosody.opening)
    middle = np.arange(frames) * TICKS_PER_FRAME + TICKS_PER_FRAME // 2
    voiced = _smooth(_ACOUSTICS["voice"][phase], 0.005)[middle] > 0.1
    blocks = audio.reshape(frames, SAMPLES_PER_FRAME) / 32768.0
    return Utterance(
        audio=audio,
        phonemes=script.label[of_tick][middle].astype(np.int32),
        articulation={mode: curves[middle, i].astype(np.float32) for i, mode in enumerate(MODES)},
        energy=np.sqrt(np.mean(blocks**2, axis=1)).astype(np.float32),
        pitch=np.where(voiced, pitch[middle], 0.0).astype(np.float32),
    )
