"""Runs a study as a job of a Ray cluster: one job to a study, followed from here, with the study's own exit code.

The name of the job is made of the study's name and hash, so that whoever submits the study again, at the same time or
days later, finds the job that runs it. The cluster is sent the study and the files that it names here, nothing else.
"""

import json
import re
import shlex
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from pydantic import ValidationError

from afp_ray.config import StudyConfig, flatten
from afp_ray.errors import ConfigError
from afp_ray.execution.cluster_auth import require_token
from afp_ray.ledger import study_hash
from afp_ray.redaction import redact
from afp_ray.search import make_arms
from afp_ray.store import write_json
from services.output import AWAY, COMPLETE, SIGINT, SIGTERM, note, say, say_json
from services.schemas import RESULT_MARK, JobResult, Submission

if TYPE_CHECKING:
    from afp_ray.execution.job_client import RayJob, RayJobs

ATTACH: Final = "the same command again follows it"
STOP_WAIT_S: Final = 600
"""Seconds that `ray job stop` leaves a driver to let running trials end; Ray's own 3 would cut them off."""


def submit(
    study: StudyConfig,
    address: str,
    *,
    storage: str | None = None,
    allow_open: bool = False,
    allow_drift: bool = False,
    detach: bool = False,
    as_json: bool = False,
) -> int:
    """Make sure that a job of the cluster runs the study, and follow it to its end unless told otherwise.

    Args:
        study: what to run, resolved.
        address: of the cluster's dashboard, `http://host:port`.
        storage: folder or URL of the studies, as the cluster names it; None leaves it to the cluster.
        allow_open: use a cluster that asks for no token.
        allow_drift: go on although the study differs from what ran before.
        detach: return once the job is there.
        as_json: print the job's log on standard error and one `Submission` at the end.
    Returns: the exit code of the study; 0 where it goes on without us.
    Raises: ConfigError, UnavailableError.
    """
    require_dashboard(address)
    make_arms(study)
    refuse_secrets(study, storage)
    require_token(address, allow_open=allow_open)
    jobs = jobs_of(address)
    command = ["afp", "run", STUDY_FILE, *(["--storage", storage] if storage else [])]
    command += [*(["--allow-drift"] if allow_drift else []), *(["--allow-open-cluster"] if allow_open else [])]
    job_id, state = ensure_job(jobs, study, command, storage=storage)
    answer = Submission(
        submission_id=job_id, address=address, study=study.name, study_hash=study_hash(study), state=state
    )
    _tell_start(answer, as_json=as_json)
    if state == "complete":
        return _show_again(jobs, answer, as_json=as_json)
    if detach:
        if as_json:
            say_json(answer)
        return COMPLETE
    return _follow(jobs, answer, as_json=as_json)


def require_dashboard(address: str) -> None:
    """Refuse an address that is no dashboard's.

    Raises: ConfigError with the form it should have.
    """
    try:
        parts = urlsplit(address)
        is_dashboard = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half of an IPv6 address
        is_dashboard = False
    if not is_dashboard:
        raise ConfigError(
            f"{address!r} is not the address of a Ray dashboard",
            where="--address",
            allowed="http://HOST:PORT",
            fix="Ray's own port is 8265; `ray dashboard CLUSTER.yaml` brings it to http://127.0.0.1:8265",
        )


def submission_id(study: StudyConfig, attempt: int = 1) -> str:
    """The id of the job that runs a study; another attempt gets a number behind it."""
    return f"afp-{study.name}-{study_hash(study)}{f'-{attempt}' if attempt > 1 else ''}"


def jobs_of(address: str) -> "RayJobs":
    """The jobs of a cluster.

    Raises: ConfigError where Ray's client of them is not installed.
    """
    try:
        from afp_ray.execution.job_client import RayJobs
    except ImportError as error:
        raise ConfigError(
            f"Ray's job client cannot be loaded: {error}", fix="pip install -c constraints.txt 'afp-ray[cluster]'"
        ) from error
    return RayJobs(address)


def ensure_job(jobs: "RayJobs", study: StudyConfig, command: list[str], *, storage: str | None) -> tuple[str, Any]:
    """The job that runs the study, made where there is none that runs it or has completed it."""
    attempt = 1
    while (job := jobs.find(submission_id(study, attempt))) is not None:
        theirs = job.metadata.get("afp.storage", "")
        if not job.is_over or job.status == "SUCCEEDED":
            if theirs != (storage or ""):
                raise ConfigError(
                    f"job {job.submission_id} has run this study under {theirs or 'the storage of the cluster'}",
                    where="--storage",
                    fix=f"leave --storage {theirs or 'out'}, or give the study another name",
                )
            return job.submission_id, "complete" if job.is_over else "attached"
        attempt += 1
    job_id = submission_id(study, attempt)
    with tempfile.TemporaryDirectory(prefix="afp-submit-") as folder:
        pack(study, Path(folder))
        is_ours = jobs.submit(
            job_id,
            shlex.join(command),
            working_dir=Path(folder),
            metadata={"afp.study": study.name, "afp.study_hash": study_hash(study), "afp.storage": storage or ""},
            environment={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
        )
    return job_id, "submitted" if is_ours else "attached"


def _tell_start(answer: Submission, *, as_json: bool) -> None:
    tell = note if as_json else say
    words = {"submitted": "submitted", "attached": "is already at work on this study", "complete": "has completed it"}
    tell(f"job      {answer.submission_id} {words[answer.state]}")
    if answer.state == "complete":
        tell("         nothing runs again")
        return
    tell(f"attach   {ATTACH}")
    tell(f"stop     {_stop_command(answer)}")


def _stop_command(answer: Submission) -> str:
    return f"ray job stop {answer.submission_id} --address {answer.address}"


def _follow(jobs: "RayJobs", answer: Submission, *, as_json: bool) -> int:
    lines = LogLines(note if as_json else say)
    try:
        jobs.follow(answer.submission_id, lines.write)
    except KeyboardInterrupt:
        note(f"detached; job {answer.submission_id} goes on. {ATTACH}")
        note(f"stop it with: {_stop_command(answer)}")
        return SIGINT
    lines.end()
    return _end(jobs, answer, lines.result, as_json=as_json)


def _show_again(jobs: "RayJobs", answer: Submission, *, as_json: bool) -> int:
    """The summary of a job that is over."""
    lines = LogLines(lambda _: None)
    lines.write(jobs.log(answer.submission_id))
    lines.end()
    for line in () if as_json else lines.last_block():
        say(line)
    return _end(jobs, answer, lines.result, as_json=as_json)


def _end(jobs: "RayJobs", answer: Submission, result: JobResult | None, *, as_json: bool) -> int:
    """Say how a job has ended; returns the exit code of its study."""
    job = jobs.find(answer.submission_id)
    code, words = _exit_code(job, result)
    if words:
        note(words)
    if as_json:
        outcome = {"status": result.status, "best": result.best} if result else {}
        say_json(answer.model_copy(update={"job_status": job.status if job else None, "exit_code": code, **outcome}))
    return code


def _exit_code(job: "RayJob | None", result: JobResult | None) -> tuple[int, str]:
    """The exit code of the study behind a job that is over, and a word where it ended in another way."""
    if job is not None and job.exit_code is not None and job.exit_code >= 0:
        return job.exit_code, ""
    if result is not None:
        return result.exit_code, ""
    again = "the same command continues the study"
    if job is not None and job.status == "STOPPED":
        return SIGTERM, f"the job was stopped; {again}"
    reason = job.message.splitlines()[0] if job and job.message else "its node or its driver is gone"
    return AWAY, f"error  the job ended before the study did: {reason}\nfix    {again}"


class LogLines:
    """Passes on the lines of a job's log, and keeps what it says for programs.

    Args:
        tell: gets every line but the last, which is for programs.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.result: JobResult | None = None
        """What the study says at its end; None before it, and for a job of another kind."""
        self._tell = tell
        self._rest = ""
        self._lines: deque[str] = deque(maxlen=4000)

    def write(self, text: str) -> None:
        """Take a piece of the log."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)

    def end(self) -> None:
        """Take what has no newline behind it."""
        if self._rest:
            self._take(self._rest)
            self._rest = ""

    def last_block(self) -> list[str]:
        """The lines behind the last event of the study, which sum it up; the last forty where there is no event."""
        lines = list(self._lines)
        indices = [number for number, line in enumerate(lines) if "  CLOSED  " in line]
        return lines[indices[-1] + 1 :] if indices else lines[-40:]

    def _take(self, line: str) -> None:
        if line.startswith(RESULT_MARK):
            try:
                self.result = JobResult.model_validate(json.loads(line.removeprefix(RESULT_MARK)))
                return
            except (ValueError, ValidationError):
                pass  # a line that only looks like it
        self._lines.append(line)
        self._tell(line)


STUDY_FILE: Final = "study.json"
MAX_BYTES: Final = 90 * 2**20
"""Ray takes 100 MiB with a job."""
NAMES_A_FILE = ("path", "instruction_scores", "data_dir", "spbleu_model", "name")


def refuse_secrets(study: StudyConfig, storage: str | None) -> None:
    """Refuse what must not be sent: everybody who may use the cluster reads the jobs of all.

    Raises: ConfigError naming the field; the value is not repeated.
    """
    for field, value in {**flatten(study.model_dump(mode="json")), "--storage": storage}.items():
        for _, text in _texts(field, value):
            if redact(text) != text:
                raise ConfigError(
                    f"the value of {field} holds a password or a token: {redact(text)}",
                    where=field,
                    fix="leave it out, and give it to the nodes as a file or as a variable of their own environment "
                    "(MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, HF_TOKEN ...)",
                )


def pack(study: StudyConfig, folder: Path) -> None:
    """Write into `folder` the study and the files that it names relative to where we are.

    Raises: ConfigError when they are too large to send, or lie above the current folder.
    """
    write_json(folder / STUDY_FILE, study.model_dump(mode="json"))
    size = 0
    for name in sorted(set(_named_files(study))):
        source = Path(name)
        if not source.resolve().is_relative_to(Path.cwd().resolve()):
            raise ConfigError(f"{name} lies outside the current folder", fix="give a path that the cluster has")
        files = [source] if source.is_file() else [file for file in source.rglob("*") if file.is_file()]
        size += sum(file.stat().st_size for file in files)
        if size > MAX_BYTES:
            raise ConfigError(
                f"{name} makes {size / 2**20:.0f} MiB to send with the job",
                allowed=f"{MAX_BYTES / 2**20:.0f} MiB",
                fix="put it where every node of the cluster finds it, and name that place: ${AFP_DATA_DIR}/...",
            )
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / source, dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / source)


def _named_files(study: StudyConfig) -> Iterator[str]:
    """Relative paths in the study that are there; what is not, and absolute paths, are the cluster's own."""
    choices = {name: list(getattr(spec, "choices", ())) for name, spec in study.tune.items()}
    named = [item for fields in study.arms.values() for item in flatten(fields).items()]
    for name, value in (*flatten(study.fixed).items(), *study.compare.items(), *named, *choices.items()):
        for field, text in _texts(name, value):
            if field.rpartition(".")[2] not in NAMES_A_FILE or "\0" in text or text.startswith(("~", "$", "/")):
                continue
            pattern = re.sub(r"\{[^}]*\}", "*", text)  # {source} and the like stand for language codes
            yield from map(str, Path().glob(pattern)) if pattern != text else [text] * Path(text).exists()


def _texts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{name}.{key}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(name, inner)
