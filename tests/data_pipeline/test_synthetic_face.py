"""The synthetic people and their clips: deterministic, true to their coefficients, whole."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from data_pipeline import synthetic_face
from data_pipeline.emotions import EMOTIONS
from data_pipeline.errors import InputError
from data_pipeline.face_basis import load_face_basis
from data_pipeline.synthetic import (
    BILABIALS,
    MAX_TURN,
    lip_gap_modes,
    perform,
    speaker_of,
    synthesize_clip,
)
from data_pipeline.synthetic_face import (
    CAMERA_DISTANCE,
    Identity,
    face_shapes,
    render,
    rotations,
)
from data_pipeline.synthetic_klatt import Speaker
from data_pipeline.synthetic_parts import EYE_TILE, TEETH_TILE
from data_pipeline.synthetic_voice import utter

SEEDS = (3, 4, 9, 18)  # different hair and beards


def coefficients(**modes: float) -> np.ndarray:
    """One frame (1, 64); a name without its side moves both."""
    names = load_face_basis().names
    row = np.zeros((1, len(names)), np.float32)
    for mode, value in modes.items():
        for name in [mode] if mode in names else [f"{mode}_L", f"{mode}_R"]:
            row[0, names.index(name)] = value
    return row


POSES = np.concatenate(
    [
        coefficients(),
        coefficients(jawOpen=0.7),
        coefficients(eyeBlink=1),
        coefficients(mouthSmile=0.8, jawOpen=0.2, headYaw=0.08, headPitch=0.05),
        coefficients(mouthFunnel=0.8, jawOpen=0.3, browInnerUp=1, eyeWide=1),
        coefficients(
            noseSneer=1, mouthUpperUp=0.6, mouthLowerDown=0.6, eyeSquint=0.7, headRoll=0.05
        ),
        coefficients(mouthPress=0.5, mouthClose=0.06, mouthRollLower=0.2, headYaw=-0.08),
    ]
)


def pixels(landmarks: np.ndarray, size: int) -> np.ndarray:
    return np.round(landmarks * size - 0.5).astype(np.int32)


def region(points: np.ndarray, size: int, grow: int = 0) -> np.ndarray:
    """Mask of the points' convex hull, grown or shrunk by some pixels."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    kernel = np.ones((2 * abs(grow) + 1,) * 2, np.uint8)
    return (cv2.dilate if grow > 0 else cv2.erode)(mask, kernel).astype(bool)


def painted_green(textures: tuple[np.ndarray, ...], tile, bright: float) -> tuple[np.ndarray, ...]:
    """The textures with one tile of the atlas in plain green."""
    painted = tuple(texture.copy() for texture in textures)
    for level, texture in enumerate(painted):
        x, y, width, height = (n >> level for n in tile)
        texture[y : y + height, x : x + width] = [0, bright, 0, 0]
    return painted


def test_same_seed_same_person():
    first = render(Identity.from_seed(5), POSES[:2], 64)
    synthetic_face._person.cache_clear()
    again = render(Identity.from_seed(5), POSES[:2], 64)
    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.landmarks, again.landmarks)


def test_people_differ_in_shape_and_picture():
    pictures, shapes = [], []
    for seed in range(6):
        drawn = render(Identity.from_seed(seed), POSES[:1], 64)
        pictures.append(drawn.frames[0].astype(np.float64))
        shapes.append(drawn.landmarks[0])
    for a, b in combinations(range(6), 2):
        assert np.abs(pictures[a] - pictures[b]).mean() > 8
        assert np.abs(shapes[a] - shapes[b]).max() > 0.008


def test_head_turns_as_a_rigid_body():
    basis = load_face_basis()
    turned = coefficients(headPitch=0.08, headYaw=-0.06, headRoll=0.05, headX=0.3, headZ=-0.2)
    matrix = rotations(turned)[0]
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-6)
    zero = np.zeros(40)
    still, moved = face_shapes(basis, zero, np.concatenate([coefficients(), turned]))
    apart = np.linalg.norm(still[::50] - still[7], axis=1)
    assert np.allclose(np.linalg.norm(moved[::50] - moved[7], axis=1), apart, atol=1e-4)
    linear = basis.mean + basis.expression @ turned[0]
    assert np.abs(linear - moved).max() < 0.2  # the basis' rigid modes are its first derivative


def test_landmarks_are_the_projected_mesh():
    basis, person = load_face_basis(), Identity.from_seed(4)
    drawn = render(person, POSES, 32)
    marks = face_shapes(basis, person.shape, POSES)[:, basis.landmark_vertices]
    away = CAMERA_DISTANCE - marks[..., 2]
    scale = (CAMERA_DISTANCE - person.centre[2]) / person.frame / away
    x = 0.5 + scale * (marks[..., 0] - person.centre[0])
    y = 0.5 - scale * (marks[..., 1] - person.centre[1])
    assert np.allclose(drawn.landmarks, np.stack([x, y], -1), atol=1e-5)
    assert drawn.landmarks.min() > 0.05 and drawn.landmarks.max() < 0.95


@pytest.mark.parametrize("seed", SEEDS)
def test_face_has_no_holes(seed):
    size = 160
    person = Identity.from_seed(seed)
    person = person._replace(
        background=np.broadcast_to(np.float32([2, 0, 2]), (256, 256, 3)).copy()
    )
    drawn = render(person, POSES, size)
    for frame, marks in zip(drawn.frames.astype(int), pixels(drawn.landmarks, size), strict=True):
        magenta = np.minimum(frame[..., 0], frame[..., 2]) - frame[..., 1] > 120
        assert not magenta[region(marks, size, grow=-3)].any()
        assert magenta.any()  # the marker does show around the head


@pytest.mark.parametrize("seed", SEEDS)
def test_teeth_stay_behind_the_lips(seed):
    size = 192
    person = Identity.from_seed(seed)
    drawn = render(
        person._replace(textures=painted_green(person.textures, TEETH_TILE, 3.0)), POSES, size
    )
    green = []
    for frame, marks in zip(drawn.frames.astype(int), pixels(drawn.landmarks, size), strict=True):
        teeth = frame[..., 1] - np.maximum(frame[..., 0], frame[..., 2]) > 60
        mouth = region(marks[48:], size, grow=2)
        green.append((teeth & mouth).sum())
        assert not (teeth & ~mouth & region(marks, size)).any()
    assert lip_gap(POSES)[-1] < 0
    assert green[-1] == 0 and green[1] > 20  # hidden by sealed lips, shown by open ones


@pytest.mark.parametrize("seed", SEEDS)
def test_open_mouth_shows_a_dark_inside(seed):
    size = 128
    drawn = render(Identity.from_seed(seed), POSES[:2], size)
    shut, opened = drawn.frames.astype(np.float64)
    inside = region(pixels(drawn.landmarks[1, 60:], size), size, grow=-2)
    assert inside.sum() > 30
    assert np.percentile(opened[inside], 20) < 45
    assert np.abs(opened - shut)[inside].mean() > 15


def test_blink_hides_the_eyes():
    size = 192
    for seed in SEEDS:
        person = Identity.from_seed(seed)
        green = person._replace(textures=painted_green(person.textures, EYE_TILE, 30.0))
        drawn = render(green, POSES[[0, 2]], size).frames.astype(int)
        marks = pixels(render(person, POSES[:1], size).landmarks[0, 36:48], size)
        eyes = region(marks, size, grow=4)
        seen = (drawn[..., 1] - np.maximum(drawn[..., 0], drawn[..., 2]) > 60) & eyes
        assert seen[0].sum() > 60
        assert seen[1].sum() < 0.15 * seen[0].sum()


# ---- clips ---------------------------------------------------------------------------


def lip_gap(values: np.ndarray) -> np.ndarray:
    rest, modes = lip_gap_modes()
    return rest + values @ modes


def test_clip_is_deterministic_and_complete():
    clip = synthesize_clip(6, "happy", 2, 1.2, 48)
    again = synthesize_clip(6, "happy", 2, 1.2, 48)
    for one, other in zip(clip, again, strict=True):
        assert np.array_equal(one, other)
    assert clip.frames.shape == (30, 48, 48, 3) and clip.frames.dtype == np.uint8
    assert clip.audio.shape == (30 * 640,) and clip.audio.dtype == np.int16
    assert clip.coefficients.shape == (30, 64) and clip.coefficients.dtype == np.float32
    assert clip.phonemes.shape == (30,) and clip.phonemes.dtype == np.int32
    assert clip.emotion == EMOTIONS.index("happy")
    assert not np.array_equal(
        clip.coefficients, synthesize_clip(6, "happy", 3, 1.2, 48).coefficients
    )
    y0, x0, y1, x1 = clip.sync_box
    assert 0 <= y0 < 0.3 and 0.7 < y1 <= 1
    assert 0 <= x0 < 0.3 and 0.7 < x1 <= 1


def test_clip_is_drawn_from_its_coefficients():
    clip = synthesize_clip(8, "angry", 0, 0.4, 64)
    drawn = render(Identity.from_seed(8), clip.coefficients, 64)
    assert np.array_equal(drawn.frames, clip.frames)
    assert np.array_equal(drawn.landmarks, clip.landmarks)


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_lips_close_on_bilabials_and_follow_the_voice(emotion):
    rng = np.random.default_rng(0)
    names = load_face_basis().names
    runs = 0
    for seed in range(3):
        voice = utter(seed, emotion, 8.0, Speaker.from_seed(seed))
        done = perform(voice, emotion, rng)
        gap = lip_gap(done)
        speech = np.zeros_like(done)
        for mode, curve in voice.articulation.items():
            speech[:, names.index(mode)] = curve
        assert np.corrcoef(gap, lip_gap(speech))[0, 1] > 0.9
        shut = np.isin(voice.phonemes, BILABIALS)
        starts = np.flatnonzero(shut & ~np.roll(shut, 1))
        for start in starts[starts > 0]:
            length = int(np.argmin(np.append(shut[start:], False)))
            if length >= 2:
                runs += 1
                assert gap[start : start + length].min() < 0.12  # cm; 0.08 is the closed mouth
    assert runs > 5


def test_emotions_are_told_apart_and_neutral_is_neutral():
    voice = utter(1, "neutral", 4.0, Speaker.from_seed(1))
    means = {
        emotion: perform(voice, emotion, np.random.default_rng(5))[:, :57].mean(0)
        for emotion in EMOTIONS
    }
    for one, other in combinations(EMOTIONS, 2):
        assert np.linalg.norm(means[one] - means[other]) > 0.6
    names = load_face_basis().names
    for mode in ("browDown_L", "browInnerUp_L", "mouthSmile_L", "mouthFrown_R", "noseSneer_L"):
        assert means["neutral"][names.index(mode)] == 0

    person = Identity.from_seed(7)
    pictures = render(person, np.stack([np.pad(means[e], (0, 7)) for e in EMOTIONS]), 96)
    for a, b in combinations(range(len(EMOTIONS)), 2):
        face = region(pixels(pictures.landmarks[a], 96), 96)
        change = np.abs(pictures.frames[a].astype(float) - pictures.frames[b])[face].mean()
        assert change > 1.5


def test_head_and_eyes_move_naturally():
    names = load_face_basis().names
    blinks = 0
    for seed in range(4):
        voice = utter(seed, "sad", 10.0, Speaker.from_seed(seed))
        done = perform(voice, "sad", np.random.default_rng(seed))
        turns = done[:, [names.index(f"head{axis}") for axis in ("Pitch", "Yaw", "Roll")]]
        assert np.abs(turns).max() <= MAX_TURN + 1e-6
        assert turns.std(0).min() > 0.001
        assert np.abs(np.diff(turns, axis=0)).max() < np.radians(2.0)
        closed = done[:, names.index("eyeBlink_L")] > 0.95
        blinks += int((closed & ~np.roll(closed, 1)).sum())
        assert np.abs(done[:, :57]).max() <= 1.5
    assert 8 <= blinks <= 18  # in 40 s


def test_voice_suits_the_face():
    for seed in range(12):
        person = Identity.from_seed(seed)
        assert (speaker_of(person).base_pitch > 160) == person.feminine


def test_bad_requests_are_sentences():
    with pytest.raises(InputError, match="no emotion 'bored'"):
        synthesize_clip(0, "bored", 0, 1.0, 32)
    with pytest.raises(InputError, match="too small"):
        synthesize_clip(0, "sad", 0, 1.0, 8)
    with pytest.raises(InputError, match="less than one frame"):
        synthesize_clip(0, "sad", 0, 0.001, 32)
