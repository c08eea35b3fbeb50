"""The sounds of the synthetic voice: to the eye a viseme, to the ear targets of a synthesiser."""

from typing import NamedTuple

import numpy as np

from data_pipeline.audio import SAMPLE_RATE, SAMPLES_PER_FRAME

TICK = 80  # samples between two values of a control track: 5 ms, as in Klatt's synthesiser
TICKS_PER_FRAME = SAMPLES_PER_FRAME // TICK
TICKS_PER_SECOND = SAMPLE_RATE // TICK


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


VOWELS = names("iy ih eh ae aa ao uh uw ah er ey ay ow")
CONSONANTS = names("p b t d k g m n ng f v th dh s z sh ch jh h w y r l")
PHONEMES = ("sil", *VOWELS, *CONSONANTS)
SILENCE = 0


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
FIRST_PHASE = np.cumsum([0] + [len(_SOUNDS[name]) for name in PHONEMES])
IS_ASPIRATION = np.array([phase is _ASPIRATION for phase in _PHASES])
ACOUSTICS = {
    field: np.array([getattr(phase, field) for phase in _PHASES], np.float64)
    for field in _Phase._fields
    if field != "viseme"
}
SHAPE = np.array(
    [[_VISEMES[phase.viseme].shape.get(mode, 0.0) for mode in MODES] for phase in _PHASES]
)
DOMINANCE = np.array(
    [
        [viseme.pull if mode in viseme.shape else viseme.yields for mode in MODES]
        for viseme in (_VISEMES[phase.viseme] for phase in _PHASES)
    ]
)
IS_VOWEL = np.isin(np.repeat(PHONEMES, np.diff(FIRST_PHASE)), VOWELS)
LIPS_SHUT = np.isin([phase.viseme for phase in _PHASES], ("p", "b", "m"))
