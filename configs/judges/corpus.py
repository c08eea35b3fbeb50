"""Judges of filmed faces; the argument names the one to train.

    python -m reta_jax.train_expert --config configs/judges/corpus.py:landmark_net

landmark_net is the lip expert, which teaches L_lips of configs/corpus.py: what it has taught is
judged by MediaPipe's landmarks. It sees grey. Ten minutes on one core. syncnet_v2 judges Sync_c and
Sync_d of a model that no sync network has taught. Both learn from the model's people, and from
rendered ones beside them, who show mouths that few people make, and whose mouths go with their
voices without exception (docs/decisions.md).
"""

from ml_collections import ConfigDict

from configs.judges import synthetic


def get_config(task: str = "landmark_net") -> ConfigDict:
    config = synthetic.get_config(task)
    config.dirs, config.apart_from = ("data/corpus", "data/synthetic"), ()
    config.out = f"weights/corpus/{task}"
    if task == "landmark_net":
        config.fields.grey = True
        config.steps = 1200
    return config
