"""Every file name under the storage folder, and writes that are either whole or not there.

<storage>/                     default `runs/`
mlflow.db, mlartifacts/    default tracking database of all studies
remote.json                which URL the storage is at, where this folder stands for one
<study>/
study.json             the validated study, as it was first run
ledger.jsonl           the one truth
ledger.snapshot.json   a long ledger's state as of one of its lines; can be deleted at any time
driver.lease           held by the driver
driver.log
report.html, comparison.{md,tex,csv,json}
mlflow.json            which MLflow run shows which trial
outbox.json            how much of the ledger MLflow shows
mlflow.lock            held by the process that writes into MLflow
stop                   asks the driver to stop
trials/<trial_id>/
config.json, result.json, progress.json, failure-<attempt>.txt, log.txt
incomplete.json        what a trial scored that failed because it could not score all
attempt.json           the attempt that may write here; workers of an earlier one stop
rung-<n>.json          scores of a trial that was paused there
training_calls.jsonl   one line each time that training really starts
training.jsonl         losses, learning rate and so on by step, at most about 2,000 lines
trace.json.gz          Chrome trace of some steps, where one was asked for
state/step-<n>/        the last resumable states of a running trial
state/trained.json     what a training that is over did, until its scores are there
predictions/<split>.parquet
representation/<split>.safetensors   states of held-out sentences, for drawings
checkpoint/            a Hugging Face folder
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from afp_ray.config.base import canonical_json
from afp_ray.config.study import StudyConfig
from afp_ray.errors import DataError, StorageError
from afp_ray.records import IncompleteScores, TrialResult

DEFAULT_STORAGE = "runs"
RESULT = "result.json"
LEDGER, LEDGER_SNAPSHOT = "ledger.jsonl", "ledger.snapshot.json"
REMOTE = "remote.json"
OF_ONE_MACHINE = frozenset(
    {"driver.lease", "stop", "mlflow.json", "mlflow.lock", "progress.json", "attempt.json", LEDGER_SNAPSHOT}
)
"""Files that speak of this machine, or are made again from others: a copy of the study elsewhere is without them."""


class TrialPaths:
    """File names of one trial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config.json"
        self.result = folder / RESULT
        self.incomplete = folder / "incomplete.json"
        self.progress = folder / "progress.json"
        self.attempt = folder / "attempt.json"
        self.training_calls = folder / "training_calls.jsonl"
        self.curve = folder / "training.jsonl"
        self.trace = folder / "trace.json.gz"
        self.states = folder / "state"
        self.trained = folder / "state" / "trained.json"
        self.log = folder / "log.txt"
        self.checkpoint = folder / "checkpoint"
        self.predictions = folder / "predictions"
        self.representation = folder / "representation"

    def rung(self, number: int) -> Path:
        """Result of the trial as it was at a rung, 0-based."""
        return self.folder / f"rung-{number}.json"

    def failure(self, attempt: int) -> Path:
        """Traceback of a failed attempt."""
        return self.folder / f"failure-{attempt}.txt"

    def predictions_of(self, split: str) -> Path:
        """Per-example predictions of one split."""
        return self.predictions / f"{split}.parquet"

    def representation_of(self, split: str) -> Path:
        """States of the held-out sentences of one split."""
        return self.representation / f"{split}.safetensors"


def read_result(file: Path, *, check: Callable[[bytes], None] = lambda _: None) -> TrialResult:
    """The result of a finished trial, or of one that was paused at a rung.

    Args:
        file: where it is.
        check: called with the very bytes that the result was read from.
    Raises: DataError when the file is missing or cannot be read.
    """
    try:
        content = file.read_bytes()
        result = TrialResult.model_validate_json(content)
    except (OSError, ValidationError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {_first_line(error)}"
        raise DataError(f"the result of a trial {reason}", where=str(file)) from error
    check(content)
    return result


def find_result(file: Path) -> TrialResult | None:
    """The same; None where the file is missing or cannot be read."""
    try:
        return read_result(file)
    except DataError:
        return None


def read_incomplete(paths: TrialPaths) -> IncompleteScores | None:
    """What a trial scored that could not score everything; None when it is not there, or not whole."""
    try:
        return IncompleteScores.model_validate_json(paths.incomplete.read_bytes())
    except (OSError, ValueError):
        return None


def read_curve(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a trial's curve that are whole: the last may still be written, and a kill may leave half of one.

    Args:
        file: `training.jsonl` of the trial; none where nothing was trained.
    Returns: `step` from 1 and the metrics of that step, by name.
    Raises: DataError when the file cannot be read.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"the curve cannot be read: {error.strerror}", where=str(file)) from error
    for line in content.split(b"\n")[:-1]:
        try:
            row = from_json(line)
            is_row = isinstance(row["step"], int)
        except (ValueError, KeyError, TypeError):
            continue
        if is_row:
            yield row


class StudyPaths:
    """File names of one study."""

    def __init__(self, storage: Path | str, name: str) -> None:
        self.storage = Path(storage).expanduser().resolve()
        self.name = name
        self.folder = self.storage / name
        self.study = self.folder / "study.json"
        self.ledger = self.folder / LEDGER
        self.lease = self.folder / "driver.lease"
        self.log = self.folder / "driver.log"
        self.report = self.folder / "report.html"
        self.mlflow = self.folder / "mlflow.json"
        self.outbox = self.folder / "outbox.json"
        self.mlflow_lock = self.folder / "mlflow.lock"
        self.stop = self.folder / "stop"
        self.trials = self.folder / "trials"

    def trial(self, trial_id: str) -> TrialPaths:
        """File names of the trial `trial_id`."""
        return TrialPaths(self.trials / trial_id)

    def comparison(self, suffix: str) -> Path:
        """The comparison table as `md`, `tex`, `csv` or `json`."""
        return self.folder / f"comparison.{suffix}"


def read_study(paths: StudyPaths) -> StudyConfig:
    """The study as it was first run.

    Raises: DataError when its file cannot be read.
    """
    try:
        return StudyConfig.model_validate_json(paths.study.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"the kept study cannot be read: {_first_line(error)}", where=str(paths.study)) from error


def _first_line(error: OSError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"]
    return error.strerror or str(error)


def list_studies(storage: Path | str) -> list[StudyPaths]:
    """Studies under `storage`, by name; a folder without a ledger is none."""
    root = Path(storage).expanduser().resolve()
    if not root.is_dir():
        return []
    names = sorted(entry.name for entry in root.iterdir() if (entry / LEDGER).is_file())
    return [StudyPaths(root, name) for name in names]


def _read_umask() -> int:
    """The process's umask; Linux tells it without setting it, which other threads would notice."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
    except (OSError, StopIteration, ValueError):
        umask = os.umask(0o022)
        os.umask(umask)
        return umask


PRIVATE, SHARED = 0o600, 0o666 & ~_read_umask()
"""Who may read a file: its owner alone, or whoever the user's umask lets."""


def write_atomic(path: Path, content: str | bytes, *, mode: int = SHARED) -> None:
    """Write `content` to `path` so that a reader or a kill sees the old file or the new one, never a part.

    Args:
        path: its folder is made where it is not there.
        content: the whole file.
        mode: permissions; `PRIVATE` for what may hold a secret.
    Raises: StorageError when the disk refuses, naming the path and the bytes; the old file is intact.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path} ({len(data):,} bytes): {error}") from error


def replace_text(path: Path, text: str) -> None:
    """Replace a small file whole, without waiting for the disk: a crash of the machine may lose it, nothing else.

    Raises: OSError when the disk refuses; the old file is intact and nothing is left beside it.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def url_folder(url: str, cache: Path) -> Path:
    """The folder in `cache` that stands for the storage at `url`; made when it is new."""
    url = url.rstrip("/")
    folder = cache / hashlib.sha256(url.encode()).hexdigest()[:16]
    if not (folder / REMOTE).is_file():
        write_json(folder / REMOTE, {"url": url}, mode=PRIVATE)  # a URL may hold a password
    return folder


def url_of(storage: Path) -> str | None:
    """The URL that a storage folder stands for; None where the folder is the storage itself."""
    marker = storage / REMOTE
    return str(json.loads(marker.read_text("utf-8"))["url"]) if marker.is_file() else None


def write_json(path: Path, value: Any, *, mode: int = SHARED) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", mode=mode)


def _result_digest(content: bytes) -> str:
    """Names what a result says, 32 hex digits of a SHA-256; whether its checkpoint is still there does not count.

    Raises: ValueError for what is no JSON object.
    """
    result = json.loads(content)
    if not isinstance(result, dict):
        raise ValueError("a result is a JSON object")
    result.pop("checkpoint", None)
    return _digest(canonical_json(result).encode())


def file_digest(name: str, content: bytes) -> str:
    """Names the content of a file of a finished trial, 32 hex digits.

    Args:
        name: of the file in the trial's folder.
        content: what it holds.
    Raises: ValueError for a result that is no JSON object.
    """
    return _result_digest(content) if name == RESULT else _digest(content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def trial_digests(trial: TrialPaths) -> dict[str, str]:
    """Digests of a finished trial's result and predictions, by their names in its folder.

    Raises: OSError or ValueError for a file that cannot be read.
    """
    files = [trial.result, *sorted(trial.predictions.glob("*.parquet"))]
    names = [str(file.relative_to(trial.folder)) for file in files]
    return {name: file_digest(name, file.read_bytes()) for name, file in zip(names, files, strict=True)}


def find_damage(trial: TrialPaths, digests: Mapping[str, str]) -> str:
    """What is wrong with the files that a finished trial left; "" when they are as they were written.

    Args:
        trial: its files.
        digests: what `trial_digests` gave when it ended; "" where it is not known and the file has to be whole.
    """
    for name, digest in digests.items():
        file = trial.folder / name
        try:
            held = file_digest(name, file.read_bytes())
        except OSError as error:
            return f"{file} cannot be read: {error.strerror}"
        except ValueError:
            return f"{file} is damaged"
        if digest and held != digest:
            return f"{file} is not what the trial wrote: its SHA-256 differs from the ledger's"
    return ""


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
