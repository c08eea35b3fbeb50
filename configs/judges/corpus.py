"""The lip expert of filmed faces, which teaches L_lips of configs/corpus.py.

    python -m reta_jax.train_expert --config configs/judges/corpus.py

A teacher: what it has taught is judged by MediaPipe's landmarks. It learns from the model's people,
at the model's 64 px; rendered people beside the filmed ones show it mouths that few people make.
Seven minutes on one core.
"""

from ml_collections import ConfigDict

from configs.judges import synthetic


def get_config() -> ConfigDict:
    config = synthetic.get_config("landmark_net")
    config.dirs, config.apart_from = ("data/corpus", "data/synthetic"), ()
    config.image_size, config.steps = 64, 1200
    config.out = "weights/corpus/landmark_net"
    return config
