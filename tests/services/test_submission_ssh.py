"""`ray up` and `ray submit` over a real sshd on the loopback, with the cluster file that ships.

Everything of the file runs as it stands, setup commands included, but for what needs a cloud: the machines, the
network disk, `ray stop` (this machine is not ours alone) and ports that nobody else uses. The node is this machine
with another home folder; its virtual environment borrows the libraries of ours, so that pip builds and installs this
package and finds all others there.
"""

import getpass
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray_heads import (
    OVERRIDES,
    PATIENCE_S,
    ROOT,
    best_configuration,
    clean_environment,
    expected_configuration,
    free_ports,
    head_options,
    short_folder,
)

from afp_ray.ledger import replay
from afp_ray.store import StudyPaths

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MISSING = [name for name, path in (("sshd", SSHD), *((n, shutil.which(n)) for n in ("ssh", "rsync"))) if not path]
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(PATIENCE_S + 200),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}: apt-get install openssh-server rsync"),
]


@dataclass(frozen=True)
class Node:
    folder: Path
    home: Path
    port: int
    key: Path

    @property
    def storage(self) -> Path:
        return self.folder / "shared" / "runs"


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A machine to log in to: this one with another home folder, until the end of the module."""
    folder = short_folder()
    home = folder / "home"
    prepare_home(home, folder)
    (port,) = free_ports(1)
    key = folder / "key"
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    config = f"""
        Port {port}
        ListenAddress 127.0.0.1
        HostKey {folder}/host_key
        AuthorizedKeysFile {folder}/key.pub
        PidFile none
        StrictModes no
        UsePAM no
        PasswordAuthentication no
        SetEnv HOME={home}
    """
    (folder / "sshd_config").write_text(textwrap.dedent(config))
    insisted_on = Path("/run/sshd")  # by an sshd of root
    is_made = os.geteuid() == 0 and not insisted_on.exists()
    if is_made:
        insisted_on.mkdir(mode=0o755)
    assert SSHD
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        yield Node(folder, home, port, key)
    finally:
        end_processes_of(folder)
        process.terminate()
        process.wait(20)
        if is_made:
            insisted_on.rmdir()
        shutil.rmtree(folder, ignore_errors=True)


def prepare_home(home: Path, folder: Path) -> None:
    """A home folder whose virtual environment sees our libraries, but no package of this checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(home / "venv")], check=True)
    (site,) = (home / "venv/lib").glob("python*/site-packages")
    # First, since a new environment has an old setuptools.
    (site / "borrowed.pth").write_text(f"import sys; sys.path.insert(1, {sysconfig.get_path('purelib')!r})\n")
    command = home / "venv/bin/ray"
    command.write_text(f'#!/bin/sh\nexec {home}/venv/bin/python -m ray.scripts.scripts "$@"\n')
    command.chmod(0o755)
    (folder / "bin").mkdir()
    (folder / "bin" / "python3.11").symlink_to(os.path.realpath(sys.executable))
    variables = {
        "PATH": f"{folder}/bin:$PATH",
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # an old quirk of pip's: any value switches isolation off
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "RAY_TMPDIR": folder,
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "AFP_CACHE": os.environ.get("AFP_CACHE", str(Path("~/.cache/afp_ray").expanduser())),
    }
    (home / ".bashrc").write_text("".join(f"export {name}={value}\n" for name, value in variables.items()))


def end_processes_of(folder: Path) -> None:
    """End the Ray that `ray up` started: its processes name the folder."""
    ours = [each for each in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(each.info["cmdline"] or ())]
    for process in ours:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(ours, timeout=20)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def cluster_file(node: Node) -> Path:
    """The file that ships, for this node."""
    text = (ROOT / "ray_cluster.yaml").read_text("utf-8").replace("/shared/", f"{node.folder}/shared/")
    content: dict[str, Any] = yaml.safe_load(text)
    for name in ("available_node_types", "head_node_type", "initialization_commands", "max_workers"):
        del content[name]
    options = " ".join(f"--{name}={value}" for name, value in head_options(node.folder / "ray").items())
    starts = [line for line in content["head_start_ray_commands"] if not line.endswith("ray stop")]
    content["head_start_ray_commands"] = [
        line.replace("--port=6379 --dashboard-host=127.0.0.1", options) for line in starts
    ]
    content |= {
        "cluster_name": f"afp-{secrets.token_hex(4)}",
        "provider": {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []},
        "auth": {"ssh_user": getpass.getuser(), "ssh_private_key": str(node.key)},
    }
    file = node.folder / "ray_cluster.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@contextmanager
def our_side(node: Node) -> Iterator[dict[str, str]]:
    """The environment of `ray up`: a home folder with a token, and an ssh that knows the port."""
    home, tools = node.folder / "ours", node.folder / "tools"
    (home / ".ray").mkdir(parents=True)
    token = home / ".ray" / "auth_token"
    token.write_text(secrets.token_hex(32))
    tools.mkdir()
    (tools / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -p {node.port} "$@"\n')
    (tools / "ssh").chmod(0o755)
    environment = clean_environment()
    yield environment | {
        "PATH": f"{tools}{os.pathsep}{environment['PATH']}",
        "HOME": str(home),
        "RAY_TMPDIR": str(node.folder / "ours-tmp"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "TERM": "dumb",
    }


def ray(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S + 100,
        check=False,
    )


def test_a_study_runs_by_ray_submit(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(cluster_file(node))
    with our_side(node) as environment:
        up = ray(environment, "up", file, "--yes", "--no-config-cache")
        assert up.returncode == 0, up.stdout
        token = node.home / ".ray" / "auth_token"
        assert token.stat().st_mode & 0o077 == 0
        package = next((node.home / "venv/lib").glob("python*/site-packages/services/cli.py"))
        assert not package.is_symlink()
        script = ["services/cli.py", "run", "search_spaces/demo.yaml", *OVERRIDES]
        done = ray(environment, "submit", "--no-config-cache", file, *script)
    assert done.returncode == 0, done.stdout
    count = len(replay(StudyPaths(node.storage, "demo").ledger).trials)
    assert f"{count} of {count} trials done" in done.stdout, done.stdout
    assert token.read_text() not in up.stdout + done.stdout + Path(file).read_text()
    expected = expected_configuration(tmp_path, capsys)
    assert best_configuration(node.storage, capsys) == expected
