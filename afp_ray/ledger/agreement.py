"""What a study asks, as a hash and as differences, so that a ledger never mixes the trials of two studies."""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from afp_ray.config import StudyConfig, canonical_json, flatten
from afp_ray.errors import StudyChangedError
from afp_ray.plugins import used_packages
from afp_ray.store import PRIVATE, StudyPaths, read_study, write_json

_PACKAGES = ("afp-ray", "torch", "transformers", "tokenizers", "peft")


def study_hash(config: StudyConfig) -> str:
    """Content address of what a study asks, 16 hex digits; how it is run, shown and paid for does not count."""
    return hashlib.sha256(canonical_json(_content(config)).encode()).hexdigest()[:16]


def _content(config: StudyConfig) -> dict[str, Any]:
    idle = dict.fromkeys(("runtime", "description", "published", "small"), True)
    if not config.arms:  # hashes of studies of before there were named arms stay
        idle["arms"] = True
    # Hours only say where a study pauses; the number of trials is part of what it asks, the same for every arm.
    return config.model_dump(mode="json", exclude={**idle, "budget": {"gpu_hours", "wall_s"}})


def adopt_study(paths: StudyPaths, study: StudyConfig, *, allow_drift: bool) -> str:
    """Keep `study` as study.json, or compare it with what is stored; returns a note on a drift that was allowed.

    A study that goes on with more hours keeps its new budget, so that the next driver has it too.
    """
    if not paths.study.exists():
        write_json(paths.study, study.model_dump(mode="json"), mode=PRIVATE)
        return ""
    stored = read_study(paths)
    changes = changes_between(stored, study)
    if not changes:
        if stored.budget != study.budget:
            continued = stored.model_copy(update={"budget": study.budget})
            write_json(paths.study, continued.model_dump(mode="json"), mode=PRIVATE)
        return ""
    if not allow_drift:
        raise _changed(paths, stored, changes)
    write_json(paths.study, study.model_dump(mode="json"), mode=PRIVATE)
    return "drift: " + "; ".join(changes)


def require_same(paths: StudyPaths, study: StudyConfig) -> StudyConfig:
    """The stored study of that name, which asks what `study` asks; writes nothing, since another may hold it.

    Raises: StudyChangedError when it asks something else.
    """
    stored = read_study(paths)
    if changes := changes_between(stored, study):
        raise _changed(paths, stored, changes)
    return stored


def changes_between(stored: StudyConfig, study: StudyConfig) -> list[str]:
    """What differs, a line each; none when both ask the same."""
    if study_hash(stored) == study_hash(study):
        return []
    return list(_differences(stored, study)) or ["something that is not shown"]


def _changed(paths: StudyPaths, stored: StudyConfig, changes: list[str]) -> StudyChangedError:
    return StudyChangedError(
        "the study differs from the one that was run:\n  " + "\n  ".join(changes),
        where=str(paths.study),
        fix=f"rename the new study, undo the change, or take it with --allow-drift (was {study_hash(stored)})",
    )


def package_versions(study: StudyConfig | None = None) -> dict[str, str]:
    """Versions of the installed packages that scores depend on; what a build adds to its own (`+cpu`) is left out.

    Args:
        study: whose plug-ins count too, as `plugin <package>`.
    """
    versions = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name).partition("+")[0]
    return versions | (used_packages(study.model_dump(mode="json")) if study is not None else {})


def require_versions(paths: StudyPaths, before: Mapping[str, str], now: Mapping[str, str], *, allow_drift: bool) -> str:
    """Compare the packages of the last driver with those of this one; returns a note on a drift that was allowed.

    Raises: StudyChangedError when a package that both know has another version.
    """
    changed = [name for name in now if name in before and before[name] != now[name]]
    if not changed:
        return ""
    lines = [f"packages.{name}: {before[name]} -> {now[name]}" for name in changed]
    if not allow_drift:
        wanted = " ".join(f"{name.removeprefix('plugin ')}=={before[name]}" for name in changed)
        raise StudyChangedError(
            "trials of this study ran with other packages, which may score otherwise:\n  " + "\n  ".join(lines),
            where=str(paths.ledger),
            fix=f"pip install {wanted}, or go on with --allow-drift, which notes it",
        )
    return "drift: " + "; ".join(lines)


def _differences(stored: StudyConfig, study: StudyConfig) -> Iterator[str]:
    """Lines like `tune.loss.layer.high: 6 -> 8`, one per field that differs."""
    old, new = (
        {field: json.dumps(value, ensure_ascii=False) for field, value in flatten(_content(config)).items()}
        for config in (stored, study)
    )
    for field in sorted(old.keys() | new.keys()):
        before, after = old.get(field, "(not there)"), new.get(field, "(not there)")
        if before != after:
            yield f"{field}: {before} -> {after}"
