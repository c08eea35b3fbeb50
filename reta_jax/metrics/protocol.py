"""What a figure means: a protocol in YAML (configs/protocols), and the file that a report leaves.

The hash covers every field of the protocol; `run`, which a report's own protocol.yaml has besides,
says on what it was run: places, the hashes of what was there, and that of the protocol.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import yaml

from data_pipeline.errors import InputError
from reta_jax.files import write_whole

SUITES = Path(__file__).parents[2] / "configs" / "protocols"
GROUPS = ("image", "fid", "sync", "emotion", "mesh", "mouth", "face", "identity")
SYNC_CROPS = ("pipeline", "whole")
LEAST = {"clips": 1, "frames": 1, "size": 7, "fid_frames": 1}  # SSIM looks through 7 x 7 pixels
PACKAGES = ("jax", "flax", "numpy", "scipy", "opencv-python-headless", "av", "mediapipe")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Which clips are judged, as what, by which figures. Raises InputError for what is unknown."""

    name: str = "full"
    split: str = "test"
    clips: int | None = None  # the first so many; None: all
    frames: int | None = None  # of each clip, the first so many; None: all
    source: str = "neutral"  # portrait: first frame of a neutral clip, or of the clip itself: own
    size: int | None = None  # of the pictures that are compared, in pixels; None: the model's own
    codec: str = "none"  # h264: videos are judged as an mp4 player shows them
    figures: tuple[str, ...] = GROUPS
    sync_crops: tuple[str, ...] = SYNC_CROPS  # the first one's figures have the plain names
    fid_frames: int = 25  # of each clip, evenly spread
    seed: int = 0  # of the bootstrap

    def __post_init__(self):
        if self.seed < 0:
            raise InputError(f"protocol: seed {self.seed} must be a whole number, 0 or more")
        for field, allowed in (
            ("source", ("neutral", "own")),
            ("codec", ("none", "h264")),
            ("figures", GROUPS),
            ("sync_crops", SYNC_CROPS),
        ):
            value = getattr(self, field)
            given = value if isinstance(value, tuple) else (value,)
            if not given:
                raise InputError(f"protocol: {field} names none; take {', '.join(allowed)}")
            if wrong := [repr(one) for one in given if one not in allowed]:
                raise InputError(
                    f"protocol: {field} has no {', '.join(wrong)}; take {', '.join(allowed)}"
                )
        for field, least in LEAST.items():
            value = getattr(self, field)
            if value is not None and value < least:
                raise InputError(
                    f"protocol: {field} {value!r} leaves nothing to judge: give {least} or more"
                )

    @property
    def sha256(self) -> str:
        return _digest(self.as_dict())

    @property
    def clip_sha256(self) -> str:
        """Of what decides a single clip's figures: the same whichever clips are chosen."""
        about_clips = dataclasses.replace(self, name="", split="", clips=None, seed=0)
        return about_clips.sha256

    def as_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_protocol(path: Path) -> tuple[Protocol, dict[str, Any]]:
    """A protocol file: the protocol, and what it was run on (empty if it is a bare protocol).

    Raises InputError for an unreadable file, an unknown field, by name, or a run of other values
    than the file now has.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:  # two for !!int x
        raise InputError(f"cannot read the protocol {path}: {error}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} is no protocol: it must be fields and values")
    run = values.pop("run", None) or {}
    if not _is_run(run):
        raise InputError(f"{path}: run must be as a report leaves it, or be left out")
    unknown = {str(key) for key in values} - {field.name for field in dataclasses.fields(Protocol)}
    if unknown:
        raise InputError(f"{path}: a protocol has no field {', '.join(sorted(unknown))}")
    for field, value in values.items():
        _check_kind(path, field, value)
    # Of the values as they stand there: fields that came later are not what somebody changed.
    recorded = run.pop("protocol", {}).get("sha256")
    if recorded and recorded != _digest(values):
        raise InputError(
            f"{path}: the protocol was changed since its report was made (by SHA-256); take `run` "
            "out of the file to judge anew"
        )
    return protocol_of(values), run


def protocol_of(values: dict[str, Any]) -> Protocol:
    """The protocol whose `as_dict` these are."""
    return Protocol(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


KINDS = {
    "a word": (str, ("name", "split", "source", "codec")),
    "a list of words": (list, ("figures", "sync_crops")),
    "a whole number": (int, ("clips", "frames", "size", "fid_frames", "seed")),
}


def _check_kind(path: Path, field: str, value: Any) -> None:
    """Raises InputError if a field's value is of another kind than its own."""
    for what, (kind, fields) in KINDS.items():
        items = value if isinstance(value, list) else ()
        is_right = isinstance(value, kind) and all(isinstance(one, str) for one in items)
        is_right &= not isinstance(value, bool)
        is_empty = value is None and field in ("clips", "frames", "size")
        if field in fields and not (is_right or is_empty):
            raise InputError(f"{path}: {field} {value!r} must be {what}")


def _is_run(run: Any) -> bool:
    """Whether it has sections, and names its places; hashes are only compared."""
    if not isinstance(run, dict) or not all(isinstance(one, dict) for one in run.values()):
        return False
    return all(isinstance(place, str) for place in run.get("places", {}).values())


def load_suite(name: str) -> Protocol:
    """ "paper" or "full", from configs/protocols."""
    return read_protocol(SUITES / f"{name}.yaml")[0]


def write_protocol(path: Path, protocol: Protocol, run: dict[str, Any]) -> None:
    """A protocol file for `read_protocol`, with what it was run on."""
    run = {"protocol": {"sha256": protocol.sha256}} | run
    write_whole(path, yaml.safe_dump(protocol.as_dict() | {"run": run}, sort_keys=False).encode())


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "none"
    return found


def check_same(expected: dict[str, str], found: dict[str, str]) -> None:
    """Raises InputError if weights or data have another SHA-256 than a recorded run's.

    Or if there is a judge that it did not have: its figures would not have stood there.
    """
    changed = [what for what, sha256 in expected.items() if found.get(what) != sha256]
    if expected:
        changed += [what for what in found if is_of_judge(what) and what not in expected]
    if changed:
        raise InputError(
            f"{', '.join(changed)}: not what the protocol was run with (by SHA-256), so figures "
            "would not be comparable; give the same, or take `run` out of the file"
        )


def judges_digests(sha256: dict[str, str]) -> dict[str, str]:
    """Of judges, as they stand among the others of a report."""
    return {f"{name}{_JUDGE}": digest for name, digest in sha256.items()}


def is_of_judge(what: str) -> bool:
    return what.endswith(_JUDGE)


_JUDGE = " judge"


def changed_versions(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    return [
        f"{package} is {found.get(package)}, the protocol was run with {version}"
        for package, version in expected.items()
        if found.get(package) != version
    ]
