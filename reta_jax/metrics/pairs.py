"""Which videos of two folders are the same clip, who speaks in them, and what is felt."""

import collections
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipeline.datasets import folder
from data_pipeline.datasets.raw import video_files
from data_pipeline.emotions import EMOTIONS, emotion_of
from data_pipeline.errors import InputError
from data_pipeline.tables import read_table, without_suffix

COLUMNS = (("id",), ("emotion", "identity"))  # of labels


class Pair(NamedTuple):
    """The same clip, generated and real."""

    name: str  # of the generated one, without suffix, below its folder
    generated: Path
    real: Path
    emotion: int  # index into EMOTIONS, or UNKNOWN_EMOTION
    identity: str = ""  # who speaks; empty if it is unknown


class Label(NamedTuple):
    """What a user says of a video."""

    emotion: int | None = None  # index into EMOTIONS; None: what its path states holds
    identity: str = ""  # empty: its path's first folder is taken


def read_labels(path: Path) -> dict[str, Label]:
    """What a CSV file says of videos in columns `emotion`, `identity` or both, by its column `id`.

    An id is a video's name or its place below the folder; without its suffix, if it has one. An
    empty cell says nothing.

    Raises:
      InputError: it is no such file, has no line, or a word names none of EMOTIONS.
    """
    lines = {without_suffix(line["id"]): line for line in read_table(path, COLUMNS)}
    words = {name: line["emotion"] for name, line in lines.items() if line.get("emotion")}
    named = {name: emotion_of(word) for name, word in words.items()}
    if unknown := [f"{words[name]!r} of {name}" for name, found in named.items() if not found]:
        raise InputError(f"{path}: no emotion is called {unknown[0]}; take {', '.join(EMOTIONS)}")
    return {
        name: Label(
            EMOTIONS.index(named[name]) if name in named else None, line.get("identity", "")
        )
        for name, line in lines.items()
    }


def find_pairs(
    generated: Path, real: Path, labels: Mapping[str, Label] | None = None
) -> list[Pair]:
    """Videos of the same name in two folders: of the same place below them, but for the suffix.

    Where the real folder has nothing in that place, the file name is enough, if each folder has it
    once.

    Args:
      labels: by place or file name; of what they lack, the emotion is what a path states as
        MEAD's do, and who speaks is the first folder's name.

    Raises:
      InputError: one is no folder, or a generated video has no real one, or several (it is named),
        or the labels name none.
    """
    made, reals = video_files(generated), video_files(real)
    for folder_of, videos in ((generated, made), (real, reals)):
        if not videos:
            raise InputError(f"no video is in {folder_of}")
    by_place = _grouped((_place(path, real), path) for path in reals)
    by_stem = _grouped((path.stem, path) for path in reals)
    places = collections.Counter(_place(path, generated) for path in made)
    stems = collections.Counter(path.stem for path in made)
    pairs, missing, unclear = [], [], []
    for path in made:
        name = _place(path, generated)
        found, rivals = by_place.get(name, []), places[name]
        if not found:
            found, rivals = by_stem.get(path.stem, []), stems[path.stem]
        if not found:
            missing.append(path.name)
        elif len(found) > 1 or rivals > 1:
            unclear.append(name)
        else:
            emotion = folder.emotion_of(found[0].relative_to(real))
            pairs.append(Pair(name, path, found[0], emotion, _first_folder(name)))
    if missing:
        raise InputError(
            f"no real video in {real} goes with the {', '.join(missing[:3])} of {generated}: names "
            "must be the same"
        )
    if unclear:
        raise InputError(
            f"{', '.join(unclear[:3])}: which videos of {generated} and {real} go together cannot "
            "be told by their names; put them in folders of the same names, each video once"
        )
    return pairs if labels is None else _labelled(pairs, labels)


def _first_folder(name: str) -> str:
    """Empty if the name has no folder."""
    first, slash, _ = name.partition("/")
    return first if slash else ""


def _labelled(pairs: list[Pair], labels: Mapping[str, Label]) -> list[Pair]:
    """The pairs as labels have them, by place or by a file name that only one of them has."""
    stems = collections.Counter(Path(pair.name).name for pair in pairs)
    found, is_used = [], False
    for pair in pairs:
        stem = Path(pair.name).name
        names = [pair.name, *([stem] if stems[stem] == 1 else [])]
        if named := [name for name in names if name in labels]:
            label, is_used = labels[named[0]], True
            emotion = pair.emotion if label.emotion is None else label.emotion
            pair = pair._replace(emotion=emotion, identity=label.identity or pair.identity)
        found.append(pair)
    if not is_used:
        raise InputError(f"--labels: no generated video is called {', '.join(list(labels)[:3])}")
    return found


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _grouped(videos: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    found = collections.defaultdict(list)
    for name, path in videos:
        found[name].append(path)
    return found
