"""Settings that cannot work are refused before anything is made, with their names and numbers."""

import math

import pytest

from configs.synthetic import get_config
from data_pipeline.errors import InputError
from reta_jax.checks import check_config


def test_the_sync_expert_needs_five_frames():
    config = get_config("smoke")
    config.loss.sync, config.train.frames = 1.0, 4
    with pytest.raises(InputError, match="loss.sync needs train.frames >= 5, not 4"):
        check_config(config, devices=1)


def test_a_frozen_encoder_cannot_be_what_is_trained():
    config = get_config("smoke")
    config.model.audio_encoder.kind = "wav2vec2"
    config.model.audio_encoder.trainable, config.train.only = False, ("audio_encoder",)
    with pytest.raises(InputError, match="model.audio_encoder.trainable=False freezes"):
        check_config(config, devices=1)


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("train", {"only": ("generator", "mouth")}, "names mouth; parts of this model are"),
        ("train", {"size": 48}, "train.size=48 is no level of G: use one of 8, 16, 32, or 0"),
        ("train", {"size": 16}, "train.size=16: the motion mask and the discriminator look"),
        ("train", {"frames": 11}, "train.frames=11 exceeds model.window.chunk=10"),
        ("train", {"batch_size": 1}, "train.batch_size=1 gives 1"),
        ("train", {"batch_size": 4, "accumulate": 3},
         r"train.accumulate=3 does not divide the 4 clips of a device .*batch_size=4 over 1 dev"),
        ("train", {"batch_size": 4, "accumulate": 4},
         r"2 clips on each; train.batch_size=4 gives 1 \(1 devices, train.accumulate=4\)"),
        ("train", {"remat": "all"}, "train.remat is 'all'; use 'none', 'experts', 'blocks'"),
        ("train", {"steps": 1, "warmup_steps": 1, "decay": True}, "train.steps=1 .*warmup_steps=1"),
        ("train", {"steps": 9, "warmup_steps": 2, "decay": True, "adversarial_start": 7},
         "start=7 leaves the discriminator 2 of train.steps=9, within .*warmup_steps=2: nothing"),
        ("train", {"steps": -5, "decay": False}, "train.steps=-5: give 1 or more$"),
        ("train", {"learning_rate": math.inf}, "train.learning_rate=inf: give a finite number"),
        ("train", {"clip_norm": math.nan}, "train.clip_norm=nan: give more than 0"),
        ("train", {"clip_norm": 0.0}, "train.clip_norm=0.0: give more than 0"),
        ("train", {"learning_rate": -1e-3}, "train.learning_rate=-0.001: give more than 0"),
        ("train", {"d_learning_rate": math.nan}, "train.d_learning_rate=nan: give more than 0"),
        ("train", {"ema_decay": 1.5}, "train.ema_decay=1.5: give 0 or more and below 1"),
        ("train", {"max_minutes": math.nan}, "train.max_minutes=nan: give 0 or more"),
        ("model", {"tcn": {"linear": 4}}, "model.tcn.linear=4: give an odd number of frames, or 0"),
        ("model", {"tcn": {"linear": -1}}, "model.tcn.linear=-1: give 0 or more"),
        ("model", {"tcn": {"dropout": 1.0}}, "model.tcn.dropout=1.0: give 0 or more and below 1"),
        ("loss", {"l1": -1.0}, "loss.l1=-1.0: give 0 or more"),
        ("train", {"accumulate": 0}, "train.accumulate=0: give 1 or more$"),
        ("train", {"frames": 0}, "train.frames=0: give 1 or more$"),
        ("train", {"emotion_frames": 0}, "train.emotion_frames=0: give 1 or more"),
        ("train", {"preview_every": 0},
         r"train.preview_every=0: give 1 or more \(for never, more than train.steps\)"),
        ("train", {"save_every": 0}, "train.save_every=0: give 1 or more"),
        ("train", {"log_every": 0}, "train.log_every=0: give 1 or more"),
        ("train", {"keep_every": 0}, "train.keep_every=0: give 1 or more"),
        ("train", {"keep_checkpoints": 0}, "train.keep_checkpoints=0: give 1 or more$"),
        ("train", {"betas": (0.5,)}, r"train.betas=\(0.5,\): give two numbers"),
        ("train", {"betas": (0.5, 1.0)}, r"train.betas=\(0.5, 1.0\): .* below 1"),
        ("train", {"perceptual_scales": (1.0, 0.25)},
         r"train.perceptual_scales=\(1.0, 0.25\): of 32 px, give .* 16 px or more"),
        ("train", {"perceptual_scales": (2.0,)}, r"train.perceptual_scales=\(2.0,\): .* 1, 1/2"),
        ("train", {"perceptual_scales": (0.75,)}, r"perceptual_scales=\(0.75,\): .* give 1, 1/2"),
        ("train", {"only": ("fusion",)}, "names fusion; parts of this model are .*coder"),
        ("train", {"seed": -1}, "train.seed=-1: give 0 or more$"),
        ("train", {"frames": 1}, "loss.motion is of what moves within train.frames, and in 1"),
        ("train", {"perceptual_scales": ()}, "nothing to look at: give .* set loss.perceptual=0"),
        ("model", {"size": 48}, "model.size=48: give a power of two, 8 or more$"),
        ("model", {"size": 4}, "model.size=4: give a power of two, 8 or more"),
        ("model", {"split_res": 0}, "model.split_res=0: give a power of two, 8 or more$"),
        ("model", {"split_res": 63}, "model.split_res=63: give a power of two"),
        ("model", {"grid_size": 5}, "model.grid_size=5: give a power of two, 8 or more, or 0"),
        ("model", {"detail_from": 7}, "model.detail_from=7: give a power of two, 16 or more, or 0"),
        ("model", {"detail_from": 8}, "model.detail_from=8: give"),  # nothing is below it
        ("model", {"channel_multiplier": -1.0}, "model.channel_multiplier=-1.0: give more than 0"),
        ("model", {"tcn": {"features": 0}}, "model.tcn.features=0: give more than 0"),
        ("model", {"tcn": {"dilations": (1, 0)}}, r"tcn.dilations=\(1, 0\): give more than 0"),
        ("model", {"audio_encoder": {"mel": {"width": 0}}}, "mel.width=0: give more than 0"),
        ("model", {"audio_encoder": {"wav2vec2": {"heads": 3}}},
         "model.audio_encoder.wav2vec2.heads=3 does not divide model.*wav2vec2.width=128"),
        ("experts", {"teacher": {"fields": {"heads": 3}}},
         "experts.teacher.fields.heads=3 does not divide experts.teacher.fields.width=32"),
        ("model", {"audio_encoder": {"kind": "mfcc"}}, "model.audio_encoder.kind is 'mfcc'; use"),
        ("model", {"modulation": "film"}, "model.modulation is 'film'; use"),
        ("model", {"geometry": "cube"}, "model.geometry is 'cube'; use"),
        ("model", {"injection": "sum"}, "model.injection is 'sum'; use"),
        ("model", {"dtype": "bf16"}, "model.dtype is 'bf16'; use 'float32', 'bfloat16'"),
        ("model", {"uv_resolution": 0}, "model.uv_resolution=0: give 1 or more"),
        ("model", {"window": {"past": -1}}, "model.window.past=-1: give 0 or more"),
        ("discriminator", {"minibatch_std_group": 0}, "minibatch_std_group=0: give 1 or more"),
        ("tvm", {"tau_init": math.nan}, "tvm.tau_init=nan: give 0 or more and below 1"),
        ("tvm", {"sigma": math.nan}, "tvm.sigma=nan: give a finite number"),
        ("data", {"synthetic_seconds": 0.0}, "data.synthetic_seconds=0.0: give more than 0"),
        ("data", {"augment": {"mirror": 2.0}}, "data.augment.mirror=2.0: give 0 to 1"),
        ("data", {"augment": {"crop": 1.5}}, "data.augment.crop=1.5: give 0 or more and below 1"),
        ("data", {"readers": -1}, "data.readers=-1: give 0 or more"),
        ("data", {"weights": (math.inf,)}, r"data.weights=\(inf,\): give a finite number"),
        ("data", {"portrait": "identiy"}, "is 'identiy'; use 'clip', 'identity', 'pose'"),
        ("data", {"dirs": ("gs://bucket/hdtf",)}, "^gs://bucket/hdtf is an address, not a folder"),
        ("data", {"weights": (0.0,)}, r"data.weights=\(0.0,\): give a number above 0"),
        ("data", {"weights": (-1.0,)}, r"data.weights=\(-1.0,\): give a number above 0"),
        ("data", {"weights": (0.5, 0.5)}, "data.dirs.*data.weights"),
        ("model", {"audio_encoder": {"trainable": False}}, "audio_encoder.trainable=True"),
        ("loss", {"relativistic": "paired"}, "is 'paired'; use 'pairwise', 'average'"),
        ("loss", {"lips_cross": 1.0}, "give loss.lips a weight too"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused_with_their_numbers(section, changes, sentence):
    config = get_config("smoke")
    config[section].update(changes)
    with pytest.raises(InputError, match=sentence):
        check_config(config, devices=1)


def test_limits_may_be_infinite():
    config = get_config("smoke")
    config.train.clip_norm = config.train.max_minutes = math.inf
    check_config(config, devices=1)


def test_what_is_swapped_needs_two_clips_on_a_device_where_it_is_swapped():
    config = get_config("smoke")
    config.train.batch_size, config.loss.emotion = 1, 0.0
    check_config(config, devices=1)  # without the emotion losses no step does EDS
    config.loss.lips = config.loss.lips_cross = 1.0
    with pytest.raises(InputError, match="loss.lips_cross swaps voices .* set loss.lips_cross=0"):
        check_config(config, devices=1)
