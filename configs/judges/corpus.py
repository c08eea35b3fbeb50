"""The lip expert of filmed faces, which teaches L_lips of configs/corpus.py.

    python -m reta_jax.train_expert --config configs/judges/corpus.py

A teacher: what it has taught is judged by MediaPipe's landmarks. It learns from the model's people,
in grey; rendered people beside the filmed ones show it mouths that few people make. Ten minutes on
one core.
"""

from ml_collections import ConfigDict

from configs.judges import synthetic


def get_config() -> ConfigDict:
    config = synthetic.get_config("landmark_net")
    config.dirs, config.apart_from = ("data/corpus", "data/synthetic"), ()
    config.fields.grey = True
    config.steps = 1200
    config.out = "weights/corpus/landmark_net"
    return config
