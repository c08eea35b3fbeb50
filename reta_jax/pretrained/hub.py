"""Where a config's `weights` are: a folder, or a repository of the Hugging Face hub.

The hub's cache comes first, so a run that has started once starts again without a network.
"""

import re
from pathlib import Path

from data_pipeline.errors import InputError
from reta_jax.weights import PARAMS_FILE

REPOSITORY = Path(__file__).parents[2]
# As transformers names them, the safer one first.
MODEL_FILES = ("model.safetensors", "pytorch_model.bin")
PATTERNS = [PARAMS_FILE, MODEL_FILES[0], "*.json", "README.md"]


def is_hub_id(weights: str) -> bool:
    """Whether the text has the form OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", weights) is not None


def resolve(weights: str, purpose: str, on_hub: bool, help: str = "") -> Path:
    """The folder of weights: a path as given, or a hub repository's files in the local cache.

    Args:
      weights: a folder, or OWNER/NAME on the hub.
      purpose: what the weights are for.
      on_hub: whether such weights are published on the hub at all.
      help: what else one can do.

    Raises:
      InputError: neither is there; the sentence says what was tried and what would help.
    """
    folder = Path(weights)
    if folder.is_dir():
        return folder
    if not on_hub or not is_hub_id(weights):
        told = f"{weights}{_hint(folder)}{help}"
        raise InputError(f"no weights for {purpose}: there is no folder {told}")
    return cached_folder(weights) or _download(weights, purpose)


def _hint(folder: Path) -> str:
    """Of the weights that the repository holds: how one comes to them."""
    if (REPOSITORY / folder).is_dir():
        return f" here (there is in {REPOSITORY}: give the command there)"
    if folder.is_relative_to(REPOSITORY / "weights"):
        return " (the weights come with a clone of the repository, not with the installed package)"
    return ""


def cached_folder(hub_id: str) -> Path | None:
    """The repository's files in the hub's cache, if a model is among them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub_id, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None
    return folder if model_file(folder) else None


def model_file(folder: Path) -> Path | None:
    """The file with the tensors, ours or the hub's."""
    files = (folder / name for name in (PARAMS_FILE, *MODEL_FILES))
    return next((file for file in files if file.is_file()), None)


def _download(hub_id: str, purpose: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=PATTERNS))
        if model_file(folder) is None:  # an older repository, without safetensors
            folder = Path(snapshot_download(hub_id, allow_patterns=[MODEL_FILES[1], "*.json"]))
    except GatedRepoError as error:
        why = "it is gated: accept its terms on the hub and log in with `hf auth login`"
        raise _no_weights(hub_id, purpose, why) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        why = "the hub has no such repository, and there is no such folder"
        raise _no_weights(hub_id, purpose, why) from error
    except (OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = (
            "there is no such folder, the hub cannot be reached and its cache lacks it; fetch it "
            f"elsewhere (hf download {hub_id} --local-dir DIR) and give DIR as the weights"
        )
        raise _no_weights(hub_id, purpose, why) from error
    if model_file(folder) is None:
        raise _no_weights(hub_id, purpose, f"it holds none of {', '.join(MODEL_FILES)}")
    return folder


def _no_weights(hub_id: str, purpose: str, why: str) -> InputError:
    return InputError(f"no weights for {purpose} from {hub_id}: {why}")
