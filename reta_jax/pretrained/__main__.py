"""Published weights to ours.

python -m reta_jax.pretrained list
python -m reta_jax.pretrained import SOURCE FILE [--out DIR]
"""

import argparse
from pathlib import Path

from data_pipeline.errors import InputError
from reta_jax.commands import sentences_for_errors
from reta_jax.pretrained.hub import cached_folder, is_hub_id
from reta_jax.pretrained.licences import print_licences
from reta_jax.pretrained.sources import SOURCES, import_source

IMAGE_NETWORKS = ("edtalk", "lia")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def default_folder(name: str) -> Path:
    return Path("weights") / name


def show_list() -> None:
    """What is known, where it is published, under which licence, and whether it is at hand."""
    for source in SOURCES.values():
        print(f"{source.name}: {source.gives}")
        print(f"  {' or '.join(source.published)}, {source.megabytes} MB: {source.where}")
        print(f"  licence: {source.licence}")
        print(f"  at hand: {at_hand(source.name, source.where)}")


def at_hand(name: str, where: str) -> str:
    if default_folder(name).is_dir():
        return str(default_folder(name))
    if is_hub_id(where) and cached_folder(where) is not None:
        return "in the hub's cache"
    return "no"


def read_portraits(folder: Path | None, size: int = 256) -> list | None:
    if folder is None:
        return None
    from data_pipeline.face import portrait_crop  # Not above: nothing else here needs pictures.
    from data_pipeline.video import read_image

    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"no pictures in {folder}")
    return [portrait_crop(read_image(path), size, "none")[0] for path in files]


def check_used(arguments: argparse.Namespace) -> None:
    """Raises InputError for an option that would change nothing of this source."""
    if arguments.modulation and arguments.source not in IMAGE_NETWORKS:
        raise InputError(
            f"--modulation is of {' and '.join(IMAGE_NETWORKS)}: leave it out for "
            f"{arguments.source}"
        )
    if arguments.portraits and arguments.modulation != "adain":
        raise InputError("--portraits are what --modulation adain is measured on: give both")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m reta_jax.pretrained", description="Published weights for reta_jax."
    )
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="what is known, and whether it is at hand")
    importing = actions.add_parser("import", help="turn a published file into a folder of weights")
    importing.add_argument("source", choices=tuple(SOURCES))
    importing.add_argument("file", type=Path, help="the published file, or folder")
    importing.add_argument("--out", type=Path, help="folder to write; default weights/SOURCE")
    importing.add_argument(
        "--modulation", choices=("modconv", "adain"),
        help="of edtalk and lia: exactly the published arithmetic (default; a run that wants AdaIN "
        "calibrates it at its start), or the paper's AdaIN, calibrated now",
    )  # fmt: skip
    importing.add_argument(
        "--portraits", type=Path,
        help="with --modulation adain: folder of faces to calibrate on; default: synthetic ones",
    )  # fmt: skip
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    with sentences_for_errors():
        if arguments.action == "list":
            show_list()
            return
        check_used(arguments)
        out = arguments.out or default_folder(arguments.source)
        config = import_source(
            arguments.source,
            arguments.file,
            out,
            modulation=arguments.modulation or "modconv",
            portraits=read_portraits(arguments.portraits),
        )
        print_licences(config["provenance"])
        print(out)


if __name__ == "__main__":
    main()
