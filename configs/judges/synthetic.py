"""Teachers and judges of the synthetic world; the argument names the one to train.

    python -m data_pipeline.prepare synthetic --out data/judges --seed 3 --identities 160
    python -m reta_jax.train_expert --config configs/judges/synthetic.py:face_net --out my_net

Without --out it takes the place of the one in weights/synthetic.

emotion_vit and sync_expert teach (L_emo, L_syn) and learn from the model's people; the others
judge: no model is trained against them, and their people are others than the model's, which is
checked. The score is that on the people of the test split. syncnet_v2, at its eighth of the widths,
names the moment of a new person's lips among eight in 0.69 of the clips (chance 0.125), and scores
the truth higher than blur, blur higher than another's voice (tests/metrics/test_judges.py).

On one of two busy cores: 300 steps of identity_net 2 minutes, 1,200 of face_net 8, 1,500 of
syncnet_v2 60.
"""

from ml_collections import ConfigDict

from reta_jax.config import check_variant

FIELDS = {
    "emotion_vit": {
        "size": 64, "patch": 8, "width": 96, "layers": 4, "heads": 4, "mlp_dim": 192, "classes": 8,
    },
    "emotion_fan": {"width": 12, "classes": 8},
    "sync_expert": {"channel_multiplier": 0.25},
    "syncnet_v2": {"channel_multiplier": 0.125},
    "landmark_net": {"size": 64, "width": 16, "landmarks": 20},
    "face_net": {"size": 64, "width": 16, "landmarks": 68},
    "identity_net": {"size": 64, "width": 16, "features": 64},
}  # fmt: skip
TEACHERS = ("emotion_vit", "sync_expert")
STEPS = {
    "emotion_vit": 1500, "emotion_fan": 2000, "sync_expert": 4000, "syncnet_v2": 1500,
    "landmark_net": 2000, "face_net": 1200, "identity_net": 300,
}  # fmt: skip
RATES = {
    "emotion_vit": 1e-3, "emotion_fan": 2e-3, "sync_expert": 1e-3, "syncnet_v2": 1e-3,
    "landmark_net": 3e-3, "face_net": 3e-3, "identity_net": 2e-3,
}  # fmt: skip
SEEDS = {"emotion_fan": 1, "landmark_net": 2, "face_net": 3, "identity_net": 4, "syncnet_v2": 5}


def get_config(task: str = "sync_expert"):
    check_variant(task, *FIELDS)
    judges = task not in TEACHERS
    return ConfigDict(
        {
            "task": task,
            "kind": "landmark_net" if task == "face_net" else task,  # of network
            "fields": FIELDS[task],
            "dirs": ("data/judges",) if judges else ("data/synthetic",),
            "apart_from": ("data/synthetic",) if judges else (),  # nobody of these may be in `dirs`
            "out": f"weights/synthetic/{task}",
            "image_size": 128 if task in ("sync_expert", "syncnet_v2", "landmark_net") else 64,
            "frames": 5 if task in ("sync_expert", "syncnet_v2", "emotion_fan") else 1,  # of a clip
            "batch_size": 16 if task in ("emotion_fan", "syncnet_v2") else 32,  # clips
            "steps": STEPS[task],
            "learning_rate": RATES[task],
            "seed": SEEDS.get(task, 0),
            # A teacher of pixels must not be pleased by noise, nor a judge lost in soft pictures.
            "attack_radius": 1.0 if task == "emotion_vit" else 0.0,  # L2, of frames in [-1, 1]
            "fade": 1.0 if task in ("emotion_fan", "syncnet_v2") else 0.0,  # of the detail, at most
            # SyncNet v2 is asked about both crops of the published pipelines.
            "whole_frames": 0.5 if task == "syncnet_v2" else 0.0,  # share of the clips
            "log_every": 200,
            "judge_batches": 8,
            "store_dtype": "float16",
        }
    )
