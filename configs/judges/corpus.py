"""A teacher and judges of filmed faces; the argument names the one to train.

    python -m reta_jax.train_expert --config configs/judges/corpus.py:landmark_net

landmark_net is the lip expert, which teaches L_lips of configs/corpus.py: what it has taught is
judged by MediaPipe's landmarks. It sees grey, and learns from the model's people. Ten minutes on
one core. syncnet_v2 and emotion_fan judge models that no such network has taught, and learn from
people whom the model does not know, which is checked: prepare other videos as data/corpus_judges.
(emotion_fan needs paths that state an emotion, as MEAD's do.) All learn from rendered people, too,
who show mouths that few people make, and whose mouths go with their voices without exception
(docs/decisions.md).
"""

from ml_collections import ConfigDict

from configs.judges import synthetic

TEACHER = "landmark_net"


def get_config(task: str = TEACHER) -> ConfigDict:
    config = synthetic.get_config(task)
    config.out = f"weights/corpus/{task}"
    if task == TEACHER:
        config.dirs, config.apart_from = ("data/corpus", "data/synthetic"), ()
        config.fields.grey = True
        config.steps = 1200
    else:
        config.dirs = ("data/corpus_judges", "data/judges")
        config.apart_from = ("data/corpus", "data/synthetic")
    return config
