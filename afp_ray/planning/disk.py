"""What a study writes to which disk, estimated before anything starts: checkpoints, states, converted weights.

Rows, tokens and scores that are kept under `$AFP_CACHE` are not counted: a size bounds them, and a study that finds no
room for tokens or scores goes on without keeping them.
"""

import math
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from afp_ray.cache import cache_folder
from afp_ray.config import ModelConfig, StudyConfig, TrialConfig
from afp_ray.errors import ModelError, StorageError
from afp_ray.ledger import replay
from afp_ray.models.describe import local_folder
from afp_ray.models.hub import hub_file
from afp_ray.models.weight_files import find_weights, tensor_shapes
from afp_ray.search import make_arms
from afp_ray.search.arms import ends_of
from afp_ray.store import StudyPaths

FLOAT32_BYTES = 4
"""Bytes of a weight in a checkpoint: models are trained in float32."""
FIX = "free some space, or write elsewhere: --storage for checkpoints, AFP_CACHE for converted weights"


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What a study writes to one file system.

    Attributes:
        folder: a folder there that exists.
        what: what is written, in words.
        first: bytes without which not even one more trial ends.
        whole: bytes at most, to the end of the study.
        free: bytes that are free now.
    """

    folder: Path
    what: str
    first: int
    whole: int
    free: int

    @property
    def shortage(self) -> str:
        """One sentence where the whole does not fit; empty where it does."""
        if self.whole <= self.free:
            return ""
        needed = self.first if self.first > self.free else self.whole
        reach = "at least " if needed == self.first else "up to "
        return f"{self.folder} has {size(self.free)} free, and {self.what} need {reach}{size(needed)}"


def disk_needs(
    study: StudyConfig, storage: Path, *, unloadable: Collection[str] = (), converts: bool = True
) -> tuple[DiskNeed, ...]:
    """What a study still has to write, by file system; models whose files are not on this machine are left out.

    Args:
        study: checked.
        storage: folder of the studies.
        unloadable: arms that fail without writing anything.
        converts: weights are converted on this machine, not on the nodes of a cluster.
    """
    sizes = _Sizes(study, unloadable)
    parts = [(storage, "checkpoints", *sizes.checkpoints(StudyPaths(storage, study.name)))]
    if converts and (converted := sizes.conversions()):
        parts.append((cache_folder("models"), "converted weights", converted, converted))
    disks: dict[int, DiskNeed] = {}
    for path, what, first, whole in parts:
        folder = next(folder for folder in (path, *path.resolve().parents) if folder.is_dir())
        device = folder.stat().st_dev
        if (known := disks.get(device)) is not None:
            what, first, whole = f"{known.what} and {what}", known.first + first, known.whole + whole
            folder = known.folder
        disks[device] = DiskNeed(folder, what, first, whole, shutil.disk_usage(folder).free)
    return tuple(disks.values())


def require_room(
    study: StudyConfig, storage: Path, *, unloadable: Collection[str] = (), converts: bool = True
) -> Iterator[str]:
    """Refuse a study of which not even one more trial fits; yields a warning for each disk that the whole may fill.

    Raises: StorageError with the folder, what is needed and what is free.
    """
    for need in disk_needs(study, storage, unloadable=unloadable, converts=converts):
        if need.first > need.free:
            raise StorageError(f"{need.shortage}; {FIX}")
        if need.shortage:
            yield f"{need.shortage}; when the disk is full the study stops with 75, and afp resume continues it"


def kept_bytes(study: StudyConfig) -> int | None:
    """Bytes of the checkpoints that stay, at most; None when the size of a model is not known here."""
    return _Sizes(study, ()).kept()


def size(num_bytes: int) -> str:
    """Bytes in MB, or in GB from one on."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:,.1f} GB"


@dataclass(frozen=True, slots=True)
class _Model:
    """Bytes of a checkpoint of a model, and of its weights where they are still to be converted."""

    checkpoint: int
    conversion: int


class _Sizes:
    """Bytes of what a study writes, from the shapes of its models' weights."""

    def __init__(self, study: StudyConfig, unloadable: Collection[str]) -> None:

        self._study = study
        arms = [arm for arm in make_arms(study) if arm.name not in unloadable]
        self._ends = [list(ends_of(arm, study.seeds[0])) for arm in arms]
        models = {config.model for ends in self._ends for config in ends}
        self._models = {model: _sizes_of(model) for model in models}

    def kept(self) -> int | None:
        """Checkpoints that stay, at most; None when the size of a trained model is not known."""
        number = {
            "none": 0,
            "confirmed": len(self._study.seeds),
            "all": len(self._study.seeds) + (self._study.budget.trials or 0),
        }[self._study.runtime.keep_checkpoints]
        of_arms = [[self._checkpoint(config) for config in ends] for ends in self._ends]
        if any(None in found for found in of_arms):
            return None
        return number * sum(max(found or 0 for found in of_arm) for of_arm in of_arms)

    def checkpoints(self, paths: StudyPaths) -> tuple[int, int]:
        """Bytes of one more trial, and of all that is still to be written below `paths.storage`."""
        runtime = self._study.runtime
        trained = [found for ends in self._ends for config in ends if (found := self._checkpoint(config))]
        left = (self.kept() or 0) - _bytes_there(paths)
        is_kept = runtime.keep_checkpoints != "none"
        if not trained or (left <= 0 and is_kept):
            return 0, 0
        at_once = runtime.concurrency or 1
        working = 0 if is_kept and not self._study.tune else max(trained) * at_once
        if runtime.checkpoint_every_s is not None:
            working += 3 * max(trained) * (runtime.keep_last + 1) * at_once  # with both moments of Adam
        return min(trained), max(0, left) + working

    def conversions(self) -> int:
        """Bytes of pickled weights that have not been converted yet."""
        return sum(model.conversion for model in self._models.values() if model is not None)

    def _checkpoint(self, config: TrialConfig) -> int | None:
        """Bytes of a trial's checkpoint: 0 where nothing is trained, None where the model is not on this machine."""
        if config.training.max_steps == 0:
            return 0
        model = self._models[config.model]
        return model.checkpoint if model is not None else None


def _bytes_there(paths: StudyPaths) -> int:
    """Bytes of the checkpoints that the study has written."""
    if not paths.ledger.is_file():
        return 0
    folders = [paths.trial(record.trial_id).checkpoint for record in replay(paths.ledger).trials]
    return sum(file.stat().st_size for folder in folders for file in folder.glob("*.safetensors"))


def _sizes_of(model: ModelConfig) -> _Model | None:
    """What a model takes; None where its weights are not on this machine."""
    try:
        folder = local_folder(model) or hub_file(model, "config.json").parent
        weights = find_weights(folder)
        if not weights.is_pickled:
            return _Model(_bytes_of(tensor_shapes(weights)), 0)
        from afp_ray.models.pickled import converted_folder, pickled_shapes

        is_there = (converted_folder(folder, weights) / "config.json").is_file()
        conversion = 0 if is_there else sum(shard.stat().st_size for shard in weights.shards)
        return _Model(_bytes_of(pickled_shapes(weights)), conversion)
    except (ModelError, OSError):
        return None


def _bytes_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values()) * FLOAT32_BYTES
