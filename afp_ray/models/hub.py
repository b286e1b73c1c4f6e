"""Checkpoints of the model hub: a name's commit is asked for once a study, its files are fetched once a machine.

A driver looks a name up and fetches the files; what it found goes to the workers with every job, so that a branch that
moves meanwhile changes no trial, and a thousand trials are no thousand requests. The hub's own client locks its cache,
waits as long as a busy hub asks it to (Retry-After) and tries again after errors of the server.
"""

import difflib
import errno
import logging
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from afp_ray.config.model import EMBEDDED, ModelConfig
from afp_ray.errors import ModelError, StorageError
from afp_ray.models.packaged import PACKAGED

logger = logging.getLogger(__name__)

COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 5.0
_WANTED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.py")
_UNWANTED = ("*/*", "consolidated*")
"""The same weights again, for other libraries."""
_PICKLED = ("pytorch_model*.bin",)
"""Asked for where a repository has no weights in safetensors."""
_found: dict[tuple[str, str | None], "_Found"] = {}
Pin = tuple[str, str | None, str, str | None]
"""Name, revision, commit and folder of a model."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a name stood for when it was looked up, and the folder of its files where they have been fetched."""

    commit: str
    folder: str | None = None


def pins() -> list[Pin]:
    """Every model that this process has looked up, for others to `pin`."""
    return [(name, revision, found.commit, found.folder) for (name, revision), found in _found.items()]


def pin(known: Iterable[Pin]) -> None:
    """Take over what another process has looked up; a folder counts where it is there on this machine.

    What this process has fetched of the same commit stays: pins come with every job.
    """
    for name, revision, commit, folder in known:
        own = _found.get((name, revision))
        if own is None or own.commit != commit or own.folder is None:
            _found[name, revision] = _Found(commit, folder if folder and Path(folder).is_dir() else None)


def hub_file(config: ModelConfig, name: str) -> Path:
    """Path of one file of a hub repository in the local cache, downloaded when it is not there.

    The file lies under `snapshots/<commit>/`; that commit is the model's from here on.

    Raises: ModelError when the name is none, or the file is neither cached nor to be had.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    key = config.name, config.revision
    revision = _found[key].commit if key in _found else config.revision
    try:
        cached = try_to_load_from_cache(config.name, name, revision=revision)
        if isinstance(cached, str) and revision and COMMIT.fullmatch(revision):
            path = Path(cached)
        else:
            path = Path(hf_hub_download(config.name, name, revision=revision, local_files_only=not _is_reachable()))
    except HFValidationError as error:
        raise ModelError(
            f"model {config.name!r} is neither a folder nor a hub id",
            where="model.name",
            allowed="embedded, a local folder, or a hub id such as facebook/xglm-564M",
            fix="check the spelling, or give the folder that holds config.json",
        ) from error
    except OSError as error:  # what the hub's client raises for a hub that refuses or is away is one
        raise not_to_be_had(config, name, error) from error
    _found.setdefault(key, _Found(path.parent.name))
    return path


def fetch(config: ModelConfig) -> Path:
    """Folder with the files that loading the model takes, downloaded where they are not in the local cache.

    Args:
        config: names a hub id.
    Raises: ModelError when they are neither cached nor to be had.
    """
    commit = hub_file(config, "config.json").parent.name
    pinned = _found[config.name, config.revision]
    if pinned.folder is not None:
        return Path(pinned.folder)
    folder = _download(config, commit, _WANTED)
    if not any(folder.glob("*.safetensors")):
        folder = _download(config, commit, (*_WANTED, *_PICKLED))
    if not any(path for pattern in ("*.safetensors", *_PICKLED) for path in folder.glob(pattern)):
        reason = FileNotFoundError("it has no weights, or the hub would not list its files")
        raise not_to_be_had(config, "the checkpoint", reason)
    _found[config.name, config.revision] = _Found(commit, str(folder))
    return folder


def listed_files(config: ModelConfig) -> frozenset[str] | None:
    """Names of the files of a hub repository at the model's commit; None where the hub cannot be asked.

    Raises: ModelError when the repository is neither cached nor to be had.
    """
    from huggingface_hub import HfApi

    commit = hub_file(config, "config.json").parent.name
    if not _is_reachable():
        return None
    try:
        return frozenset(HfApi().list_repo_files(config.name, revision=commit))
    except Exception as error:  # the client lets through what its transport raises, which is no OSError
        logger.info("the hub does not list the files of %s: %s", config.name, first_line(error))
        return None


def fetch_small(config: ModelConfig) -> Path:
    """Folder with every file that loading takes but the weights; those are downloaded when the study starts.

    Raises: ModelError when they are neither cached nor to be had.
    """
    commit = hub_file(config, "config.json").parent.name
    pinned = _found[config.name, config.revision]
    if pinned.folder is not None:
        return Path(pinned.folder)
    return _download(config, commit, [pattern for pattern in _WANTED if pattern != "*.safetensors"])


def _download(config: ModelConfig, commit: str, patterns: Sequence[str]) -> Path:
    """Folder of the files that fit `patterns`, in the local cache; what is there already is not asked for again.

    Raises: ModelError when they are neither cached nor to be had; StorageError when the cache's disk is full.
    """
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(
            config.name,
            revision=commit,
            allow_patterns=list(patterns),
            ignore_patterns=list(_UNWANTED),
            local_files_only=not _is_reachable(),
        )
    except Exception as error:  # the client lets through what its transport raises, which is no OSError
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            path = error.filename or constants.HF_HUB_CACHE
            raise StorageError(f"cannot write the files of model {config.name!r} to {path}: {error}") from error
        raise not_to_be_had(config, "the checkpoint", error) from error
    return Path(folder)


def first_line(error: BaseException) -> str:
    """What a library's error says, without its advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def not_to_be_had(config: ModelConfig, what: str, error: Exception) -> ModelError:
    """The error for something of a hub id that is neither cached nor reachable."""
    # The client's own words for an offline hub speak of a parameter of its functions.
    reason = first_line(error) if _is_reachable() else "the hub cannot be reached from here"
    return ModelError(
        f"{what} of model {config.name!r} is not in the local hub cache and not to be had: {reason}",
        where="model.name",
        allowed=f"{EMBEDDED}, {', '.join(PACKAGED)}, a local folder, or a hub id that is cached or reachable",
        fix=meant_model(config.name)
        or f"run `hf download {config.name}` where there is a network, or give a local folder",
    )


def meant_model(name: str) -> str:
    """`did you mean X?` for a name that is nearly that of a model that is here: ours, the hub cache's, a folder beside.

    Returns: "" where none is near.
    """
    from huggingface_hub import constants

    cached = [folder.name.removeprefix("models--") for folder in Path(constants.HF_HUB_CACHE).glob("models--*")]
    try:
        beside = [str(Path(name).parent / file.parent.name) for file in Path(name).parent.glob("*/config.json")]
    except OSError:
        beside = []
    names = [EMBEDDED, *PACKAGED, *(folder.replace("--", "/") for folder in cached), *beside]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else ""


@cache
def _is_reachable() -> bool:
    """Whether the hub answers within seconds; its own client would retry for half a minute first."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return True  # a proxy stands between; only a real request can tell
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
        socket.create_connection((endpoint.hostname or "", port), timeout=_TIMEOUT_S).close()
    except OSError:
        return False
    return True
