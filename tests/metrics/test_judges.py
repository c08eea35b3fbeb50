"""The judges in the repository, on people that they do not know."""

import collections

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipeline.loader import evaluation_clips
from data_pipeline.prepare import prepare_synthetic
from reta_jax.experts.landmark_net import lower_face, soft_argmax
from reta_jax.experts.syncnet import SyncNetV2, frames_to_input
from reta_jax.metrics import sync
from reta_jax.metrics.blocks import apply_exactly
from reta_jax.metrics.clips import judge_known
from reta_jax.metrics.judges import JUDGES, Judges, load_judges
from reta_jax.metrics.protocol import Protocol
from reta_jax.metrics.rows import BLURRED, OTHER_VOICE, PORTRAIT, TRUTH, known_videos
from reta_jax.models.morphable import builtin_morphable, mesh
from reta_jax.ops.variance_mask import temporal_variance_mask
from reta_jax.pretrained import load as loading
from reta_jax.weights import load_weights
from tests.products import is_exact, products_of
from tests.tiny import RESEARCH_ONLY
from tests.weights import random_variables

LATE, EARLY = "truth, 3 frames late", "truth, 3 frames early"


NETWORKS = """
import numpy as np
WEIGHTS = __file__ + ".npy"
def a(frames): return frames[:, 0, 0] @ np.load(WEIGHTS)
def b(frames): return frames[:, 0, 0] @ np.load(WEIGHTS)
"""


def test_anybodys_networks_are_told_apart_by_name_and_weights(tmp_path, monkeypatch):
    """What one of them judged is not to be taken for the other's, nor for what it was before."""
    file = tmp_path / "two_networks.py"
    file.write_text(NETWORKS)
    weights = np.random.default_rng(0).standard_normal((2, 3, 4))
    np.save(f"{file}.npy", weights[0])
    monkeypatch.syspath_prepend(tmp_path)
    digests = [load_judges(identity=f"two_networks:{one}").identity.sha256 for one in "aba"]
    assert digests[0] == digests[2] != digests[1]
    np.save(f"{file}.npy", weights[1])
    assert load_judges(identity="two_networks:a").identity.sha256 != digests[0]


# Float32 is float32 on GPUs and TPUs, too, whose default is TF32 and bfloat16.


def assert_exact(function, *arrays):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arrays]
    products = products_of(function, *shapes)
    assert products
    for product in products:
        assert is_exact(product), product


@pytest.mark.parametrize(
    "function, arrays",
    [
        (lambda frames, box: lower_face(frames, box, 8), [(1, 16, 16, 3), (1, 4)]),
        (frames_to_input, [(1, 5, 16, 16, 3), (1, 4)]),
        (soft_argmax, [(1, 4, 4, 2), (1, 4, 4, 2, 2)]),
        (lambda features: temporal_variance_mask(features, 16), [(1, 2, 8, 8, 4)]),
        (lambda p_exp: mesh(builtin_morphable(8), p_exp), [(3, 64)]),
    ],
    ids=["lower face", "sync crop", "points", "motion mask", "mesh"],
)
def test_small_products_are_exact(function, arrays):
    assert_exact(function, *arrays)


def test_a_network_that_judges_is_exact():
    """Its layers with a stride, too, which have forms by platform."""
    network = SyncNetV2(channel_multiplier=1 / 64)
    shapes = (1, 5, 224, 224, 3), (1, 13, 20)
    variables = random_variables(network, *map(jnp.zeros, shapes))
    assert_exact(lambda *arrays: apply_exactly(network, variables, *arrays), *shapes)


def test_every_judge_is_exact():
    precisions = collections.defaultdict(set)

    def note(call, arguments, keywords, context):
        precisions[type(context.module).__name__].add(jax.config.jax_default_matmul_precision)
        return call(*arguments, **keywords)

    judges, frames = load_judges(), np.zeros((6, 64, 64, 3), np.uint8)
    for compiled in (sync._embed_lips, sync._embed_voices):
        compiled.clear_cache()
    box = np.array([0.2, 0.2, 0.8, 0.8], np.float32)
    with nn.intercept_methods(note):
        judges.mouth.look(frames, box)
        judges.sync.look(frames, np.zeros(6 * 640, np.float32), box)
        for judge in (judges.emotion, judges.face, judges.identity):
            judge.look(frames)
    networks = {"LandmarkNet", "SyncNetV2", "EmotionFAN", "IdentityNet"}
    assert networks <= precisions.keys()
    assert set.union(*precisions.values()) == {"float32"}


def test_judges_say_what_is_known_of_them(monkeypatch):
    read = []

    def once(folder):
        read.append(folder)
        params, config = load_weights(folder)
        is_published = folder.name == "syncnet_v2"
        return params, config | ({"provenance": [RESEARCH_ONLY]} if is_published else {})

    monkeypatch.setattr(loading, "load_weights", once)
    judges = load_judges()
    assert len(read) == len(set(read)) > 0  # all of a folder's numbers are read and summed
    assert judges.provenance == [RESEARCH_ONLY]
    assert judges.emotion.diagnosis["accuracy"] > 0.8 and judges.sync.diagnosis["auc"] > 0.6


@pytest.mark.slow
def test_emotions_are_seen_in_the_truth_and_through_blur_but_not_in_the_portrait(tmp_path):
    """Of a person that no network knows, in every emotion; the portrait is neutral."""
    prepare_synthetic(tmp_path, identities=2, clips_per_identity=8, seconds=1, size=64, workers=1)
    judge = load_judges(JUDGES).emotion
    right = collections.Counter()
    for clip in evaluation_clips(tmp_path, "test"):
        for name, make in known_videos(clip.frames, clip.portrait).items():
            right[name] += judge.look(make()) == clip.emotion
    assert min(right[TRUTH], right[BLURRED]) >= 5 > 2 >= right[PORTRAIT]


@pytest.mark.slow
def test_lips_and_voices_are_heard_to_be_in_step_and_out_of_it(tmp_path):
    """Of four people that no network knows, in both crops.

    Blur is not held against Sync_d: of three other people it is better in 11 of 22 clips, which is
    for reports to say (`misranked`).
    """
    prepare_synthetic(tmp_path, identities=4, clips_per_identity=1, seconds=1, size=64, workers=1)
    clips = [clip for split in ("train", "test") for clip in evaluation_clips(tmp_path, split)]
    judges, protocol = Judges(sync=load_judges(JUDGES).sync), Protocol(figures=("sync",))
    known = [
        judge_known(judges, protocol, clip, clips[i - 1].audio).rows for i, clip in enumerate(clips)
    ]

    def of(figure, name):
        """(crops, people)"""
        return np.array([[one[name][figure + crop] for one in known] for crop in ("", "_whole")])

    order = ("truth", "truth, blurred", OTHER_VOICE, "still portrait")
    assert (np.diff([of("sync_c", name).mean(1) for name in order], axis=0) < 0).all()
    assert (of("sync_c", "truth") > of("sync_c", "still portrait")).all()
    for wrong in (OTHER_VOICE, "still portrait"):
        assert (of("sync_d", "truth") < of("sync_d", wrong)).all()
    assert (of("sync_offset", "truth") == 0).all()
    for name, offset in ((LATE, 3), (EARLY, -3)):
        assert (np.abs(of("sync_offset", name) - offset) <= 1).all()
        assert np.median(of("sync_offset", name)) == offset
