"""How a person of the synthetic world looks, drawn from a seed: age, skin, hair, beard, light."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data_pipeline import rasteriser

SKIN_TONES = np.array(
    [[243, 213, 197], [233, 194, 172], [220, 174, 147], [199, 150, 121], [168, 121, 95]]
    + [[136, 96, 75], [108, 76, 60]],
) / 255  # fmt: skip
HAIR_COLOURS = {
    "black": (36, 31, 31),
    "dark": (58, 42, 34),
    "brown": (82, 56, 38),
    "light brown": (122, 88, 58),
    "blond": (190, 152, 100),
    "pale blond": (214, 186, 140),
    "red": (118, 60, 36),
    "grey": (146, 143, 140),
    "white": (214, 212, 208),
}
IRIS_COLOURS = (
    (62, 38, 22),
    (88, 58, 32),
    (112, 92, 52),
    (84, 108, 72),
    (84, 118, 150),
    (118, 134, 146),
)


class Looks(NamedTuple):
    """The choices that make a person; colours are sRGB 0..1."""

    feminine: bool
    age: float  # 0 young .. 1 old
    tone: float  # 0 pale .. 6 dark
    skin: np.ndarray
    hair: np.ndarray
    brow: np.ndarray
    style: str
    beard: str  # "", "stubble", "full", "goatee", "moustache"
    iris: np.ndarray
    make_up: float
    lip_colour: np.ndarray
    freckles: float


def choose_looks(rng: np.random.Generator) -> Looks:
    feminine = bool(rng.random() < 0.5)
    age = float(rng.beta(1.3, 1.8))
    tone = float(rng.uniform(0, 6))
    low = int(min(tone, 5))
    skin = SKIN_TONES[low] + (tone - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])
    skin = np.clip(skin * (1 + rng.normal(0, 0.012, 3)), 0.05, 0.98)
    dark_only = ["black", "dark"]
    names = (
        dark_only
        if tone > 3.2
        else [*dark_only, "brown", "brown", "light brown", "blond", "pale blond", "red"]
    )
    name = str(rng.choice(names))
    if age > 0.62 and rng.random() < 0.7:
        name = str(rng.choice(["grey", "white"]))
    hair = np.array(HAIR_COLOURS[name]) / 255 * rng.uniform(0.9, 1.1)
    brow = hair * (0.75 if name not in ("white", "grey") else 0.6)
    if feminine:
        style = str(rng.choice(["long", "long", "bob", "updo", "fringe", "curly", "side", "afro"]))
    else:
        style = str(
            rng.choice(
                [
                    "short",
                    "short",
                    "crop",
                    "side",
                    "buzz",
                    "bald",
                    "balding",
                    "curly",
                    "afro",
                    "long",
                ]
            )
        )
    if style == "afro" and tone < 3.0:
        style = "curly"
    beards = ["", "", "", "stubble", "stubble", "full", "goatee", "moustache"]
    beard = "" if feminine else str(rng.choice(beards))
    iris_choices = IRIS_COLOURS[:2] if tone > 3.2 else IRIS_COLOURS
    iris = np.array(iris_choices[rng.integers(len(iris_choices))]) / 255
    make_up = float(rng.uniform(0.3, 1.0)) if feminine and rng.random() < 0.7 else 0.0
    natural = skin * np.array([0.86, 0.66, 0.66]) + np.array([0.03, 0, 0.01])
    painted = np.array(
        [[0.62, 0.10, 0.16], [0.72, 0.25, 0.30], [0.55, 0.16, 0.25], [0.75, 0.38, 0.36]]
    )
    strength = make_up * rng.uniform(0.3, 0.9)
    lip_colour = natural + strength * (painted[rng.integers(4)] - natural)
    freckles = float(rng.uniform(0.3, 1)) if tone < 2 and rng.random() < 0.35 else 0.0
    return Looks(
        feminine, age, tone, skin, hair, brow, style, beard, iris, make_up, lip_colour, freckles
    )


def choose_lights(rng: np.random.Generator) -> rasteriser.Lights:
    def unit(x, y, z):
        vector = np.array([x, y, z], np.float64)
        return (vector / np.linalg.norm(vector)).astype(np.float32)

    side = rng.choice([-1, 1])
    warm = rng.uniform(-1, 1)
    tint = np.array([1 + 0.06 * warm, 1.0, 1 - 0.08 * warm])
    cool = np.array([1 - 0.03 * warm, 1.0, 1 + 0.06 * warm])
    strength = rng.uniform(0.55, 0.85)
    fill = rng.uniform(0.32, 0.52)
    return rasteriser.Lights(
        key=unit(side * rng.uniform(0.15, 0.9), rng.uniform(0.25, 0.75), 1.0),
        key_colour=(strength * tint).astype(np.float32),
        sky=(fill * cool).astype(np.float32),
        ground=(fill * rng.uniform(0.45, 0.75) * np.array([1.02, 0.97, 0.92])).astype(np.float32),
        rim=unit(-side * rng.uniform(0.6, 1.0), 0.3, -0.2),
        rim_colour=(rng.uniform(0.0, 0.8) * cool).astype(np.float32),
    )


class Hair(NamedTuple):
    """A head of hair in the mean head's space: `line` (y in cm by azimuth) is where it ends."""

    azimuth: np.ndarray  # (K,) radians from the front
    line: np.ndarray  # (K,) cm
    top: float  # bald above this height
    volume: float  # cm on top
    side: float  # cm at the sides
    curl: float
    part: float  # side parting: how far the strands lean
    long: bool
    fringe: bool
    seed: int


def hair_style(looks: Looks, rng: np.random.Generator) -> Hair | None:
    style = looks.style
    if style == "bald":
        return None
    front = rng.uniform(10.0, 11.3) - (0.4 if looks.feminine else 0.0)
    recess = rng.uniform(0.0, 0.6) + 1.2 * looks.age * (not looks.feminine)
    ends = {
        "long": (-16.0, -16.0),
        "bob": (-7.5, -7.5),
        "fringe": (-14.0, -14.0),
        "curly": (-1.0, -5.0),
    }
    side, back = ends.get(style, (0.6, -5.0))
    if style == "curly" and looks.feminine:
        side, back = -9.0, -9.0
    if style == "fringe":
        front, recess = rng.uniform(6.8, 7.6), 0.0
    if style == "balding":
        front, recess = 12.0, 0.4
    degrees = np.array([0, 12, 24, 34, 43, 50, 58, 68, 76, 84, 100, 120, 180.0])
    rise = front + np.array(
        [0.0, 0.05, 0.1 + 0.5 * recess, -0.2 + 0.9 * recess, -0.8 + 0.6 * recess]
    )
    temple = np.array([8.3, 7.2, 6.0, 4.5]) + 0.4 * recess
    half = np.concatenate([rise, temple, [max(side, 0.8), side, back, back]])
    falls = style in ("long", "bob", "fringe") or side == -9.0
    if falls:  # in front of the ears
        half[6:11] = (6.2, rng.uniform(1.5, 4.0), rng.uniform(-2, 0), side, side)
    if style == "fringe":
        half[:6] = front + np.array([0, 0, -0.1, -0.2, -0.5, -1.0])
        half[6] = front - 1.8
    degrees = np.concatenate([-degrees[:0:-1], degrees])
    line = np.concatenate([half[:0:-1], half])
    if style in ("side", "long", "bob", "updo"):  # parted: one side hangs lower over the forehead
        sweep = rng.choice([-1, 1]) * rng.uniform(0.3, 1.0)
        line += sweep * np.sin(np.radians(np.clip(degrees, -45, 45) * 2)) * (np.abs(degrees) < 60)
    volume = {
        "buzz": 0.12,
        "crop": 0.45,
        "afro": 2.6,
        "curly": 1.6,
        "updo": 0.45,
        "balding": 0.3,
    }.get(style, rng.uniform(0.7, 1.3))
    sides = {"afro": 2.2, "curly": 1.1, "buzz": 0.1, "long": 0.9, "bob": 1.1, "fringe": 0.9}.get(
        style, 0.3
    )
    return Hair(
        np.radians(degrees), line, 9.5 if style == "balding" else 99.0,
        volume, sides, {"afro": 1.0, "curly": 0.8}.get(style, 0.0),
        rng.choice([-1, 1]) * {"side": 0.35, "updo": 0.0}.get(style, rng.uniform(0, 0.15)),
        bool(side < -6), style == "fringe", int(rng.integers(1 << 30)),
    )  # fmt: skip
