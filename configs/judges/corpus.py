"""Judges of filmed faces; the argument names the one to train.

    python -m reta_jax.train_expert --config configs/judges/corpus.py:landmark_net

landmark_net is the lip expert, which teaches L_lips of configs/corpus.py: what it has taught is
judged by MediaPipe's landmarks. It sees grey, and rendered people beside the filmed ones show it
mouths that few people make. Ten minutes on one core. syncnet_v2 judges Sync_c and Sync_d of a model
that no sync network has taught. Both learn from the model's people.
"""

from ml_collections import ConfigDict

from configs.judges import synthetic


def get_config(task: str = "landmark_net") -> ConfigDict:
    config = synthetic.get_config(task)
    config.dirs, config.apart_from = ("data/corpus",), ()
    config.out = f"weights/corpus/{task}"
    if task == "syncnet_v2":
        config.image_size = 256
    if task == "landmark_net":
        config.dirs += ("data/synthetic",)
        config.fields.grey = True
        config.steps = 1200
    return config
