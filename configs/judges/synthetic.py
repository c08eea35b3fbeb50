"""Teachers and judges of the synthetic world; the argument names the one to train.

    python -m reta_jax.train_expert --config configs/judges/synthetic.py:sync_expert

emotion_vit and sync_expert teach (L_emo, L_syn); emotion_fan and landmark_net judge, and no model
is trained against them. Held-out identities are those of the world's test split.
"""

from ml_collections import ConfigDict

FIELDS = {
    "emotion_vit": {
        "size": 64, "patch": 8, "width": 96, "layers": 4, "heads": 4, "mlp_dim": 192, "classes": 8,
    },
    "emotion_fan": {"width": 12, "classes": 8},
    "sync_expert": {"channel_multiplier": 0.25},
    "landmark_net": {"size": 64, "width": 16, "landmarks": 20},
}  # fmt: skip
STEPS = {"emotion_vit": 3000, "emotion_fan": 2000, "sync_expert": 4000, "landmark_net": 2000}
FRAMES = {"emotion_vit": 1, "emotion_fan": 5, "sync_expert": 5, "landmark_net": 1}  # of a clip
BATCH = {"emotion_vit": 32, "emotion_fan": 16, "sync_expert": 32, "landmark_net": 32}
RATES = {"emotion_vit": 1e-3, "emotion_fan": 2e-3, "sync_expert": 1e-3, "landmark_net": 3e-3}


def get_config(kind: str = "sync_expert"):
    return ConfigDict(
        {
            "kind": kind,
            "fields": FIELDS[kind],
            "dirs": ("data/synthetic",),
            "out": f"weights/synthetic/{kind}",
            "image_size": 64 if kind.startswith("emotion") else 128,
            "frames": FRAMES[kind],
            "batch_size": BATCH[kind],  # clips
            "steps": STEPS[kind],
            "learning_rate": RATES[kind],
            "seed": {"emotion_fan": 1, "landmark_net": 2}.get(kind, 0),
            "log_every": 200,
            "judge_batches": 8,
            "store_dtype": "float16",
        }
    )
