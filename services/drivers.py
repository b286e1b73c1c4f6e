"""Drivers that the service starts: `afp run` in a process that outlives it, or a job of a cluster."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from afp_ray.config import StudyConfig
from afp_ray.errors import ConfigError, UnavailableError
from afp_ray.execution.cluster_auth import require_token
from afp_ray.store import PRIVATE, StudyPaths, write_json
from services.submission import STUDY_FILE, ensure_job, jobs_of, refuse_secrets, require_dashboard

FOLDER = ".submitted"
"""Of the storage: what was sent, and what the driver said before its study had a ledger."""


class StartedDriver(Protocol):
    """A driver that was started."""

    @property
    def job(self) -> str | None:
        """Its job in the cluster; None for a process of this machine."""
        ...

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        ...

    def refusal(self) -> ConfigError:
        """Why it ended before the study began, in its own words."""
        ...

    def end(self) -> None:
        """Stop it before its study has begun."""
        ...


class StartDriver(Protocol):
    """Starts the driver of a study that nobody drives."""

    def __call__(self, study: StudyConfig, paths: StudyPaths) -> StartedDriver:
        """The driver, which may still end before the study begins."""
        ...


class LocalDriver:
    """`afp run` on this machine, in a session of its own: neither Ctrl-C nor the end of the service reaches it.

    Args:
        study: what to run.
        paths: where it is to live.
    """

    job = None

    def __init__(self, study: StudyConfig, paths: StudyPaths) -> None:
        folder = paths.storage / FOLDER
        file, self._output, self._log = (folder / f"{study.name}.{kind}" for kind in ("json", "out", "log"))
        write_json(file, study.model_dump(mode="json"), mode=PRIVATE)
        command = [sys.executable, "-m", "services.cli", "run", str(file), "--storage", str(paths.storage), "--json"]
        environment = {name: value for name, value in os.environ.items() if name != "AFP_TOKEN"}
        with _private(self._output) as output, _private(self._log) as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=log, env=environment, start_new_session=True
            )

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    def refusal(self) -> ConfigError:
        """The error that it has printed, else the end of its log."""
        try:
            said = json.loads(self._output.read_text("utf-8"))["error"]
            return ConfigError(said["problem"], **{name: said[name] for name in ("where", "allowed", "fix")})
        except (OSError, ValueError, KeyError, TypeError):
            lines = self._log.read_text("utf-8", "replace").strip().splitlines()[-3:]
            code = self._process.poll()
            return ConfigError(f"the driver ended with {code} before the study began: {' '.join(lines)}")

    def end(self) -> None:
        """Stop it before its study has begun."""
        self._process.terminate()


def _private(file: Path) -> Any:
    return os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE), "wb")


class JobDriver:
    """A job of a cluster, one to a study; the cluster sees the storage under the same name.

    Args:
        address: of the cluster's dashboard.
        study: what to run.
        paths: where it is to live.
    Raises: ConfigError, UnavailableError.
    """

    def __init__(self, address: str, study: StudyConfig, paths: StudyPaths) -> None:
        storage = str(paths.storage)
        refuse_secrets(study, storage)
        self._jobs = jobs_of(address)
        self.job, _ = ensure_job(self._jobs, study, ["afp", "run", STUDY_FILE, "--storage", storage], storage=storage)

    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        job = self._jobs.find(self.job)
        if job is None or not job.is_over:
            return None
        return job.exit_code if job.exit_code is not None else int(job.status != "SUCCEEDED")

    def refusal(self) -> ConfigError:
        """The end of its log."""
        lines = self._jobs.log(self.job).strip().splitlines()[-5:]
        return ConfigError(f"job {self.job} ended before the study began: {' '.join(lines)}")

    def end(self) -> None:
        """Not before its study has begun: a job has no line to us but the file that the study's driver heeds."""
        raise UnavailableError(f"job {self.job} has not begun the study yet")


def start_with(address: str | None) -> StartDriver:
    """What starts drivers: processes of this machine, or jobs of the cluster whose dashboard is at `address`.

    Raises: ConfigError for what is no address of a dashboard, or a cluster that serves strangers.
    """
    if address is None:
        return LocalDriver
    require_dashboard(address)
    require_token(address, allow_open=False)
    return partial(JobDriver, address)
