"""The cluster file: Ray accepts its shape, it installs the package, and it holds no secret or hyperparameter."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "ray_cluster.yaml").read_text("utf-8")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(TEXT)
    return content


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import ray.autoscaler as autoscaler

    schema = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    jsonschema.validate(cluster, schema)


def test_the_same_file_is_valid_for_a_local_provider(cluster: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    import ray.autoscaler as autoscaler

    schema = json.loads((Path(autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    local = {key: value for key, value in cluster.items() if key not in ("available_node_types", "head_node_type")}
    local["provider"] = {"type": "local", "head_ip": "127.0.0.1", "worker_ips": []}
    jsonschema.validate(local, schema)


def test_it_installs_this_package_with_locked_versions(cluster: dict[str, Any]) -> None:
    setup = "\n".join(cluster["setup_commands"])
    installs = [line for line in cluster["setup_commands"] if "pip install" in line]
    assert installs and all("--constraint ~/afp_ray_source/constraints.txt" in line for line in installs)
    assert "~/afp_ray_source'[cluster]'" in setup
    # A script that runs in the home folder would take a folder `~/afp_ray` there for the package, were it editable.
    assert "--editable" not in setup


def test_the_mounts_are_all_that_the_package_is_built_from(cluster: dict[str, Any]) -> None:
    mounts = dict(cluster["file_mounts"])
    token = mounts.pop("~/.ray/auth_token")
    assert token == "~/.ray/auth_token"
    assert all(remote == f"~/afp_ray_source/{local.removeprefix('./')}" for remote, local in mounts.items())
    assert all((ROOT / local).exists() for local in mounts.values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    named = {
        project["project"]["readme"],
        *project["project"]["license-files"],
        *(pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]),
        *(file.split("/")[0] for files in project["tool"]["setuptools"]["data-files"].values() for file in files),
        "pyproject.toml",
    }
    assert named | {"constraints.txt"} == {local.removeprefix("./") for local in mounts.values()}


def test_every_node_asks_for_the_token_that_was_copied_to_it(cluster: dict[str, Any]) -> None:
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]
    assert "RAY_AUTH_MODE=token" in next(line for line in cluster["setup_commands"] if "afp_environment" in line)
    head = cluster["head_start_ray_commands"][-1]
    assert "--dashboard-host=127.0.0.1" in head


def test_workers_scale_from_zero_and_have_gpus(cluster: dict[str, Any]) -> None:
    worker = cluster["available_node_types"]["gpu_worker"]
    assert worker["resources"]["GPU"] >= 1
    assert worker["min_workers"] == 0 < worker["max_workers"] <= cluster["max_workers"]


def test_it_asks_for_a_token_and_holds_no_secret_or_hyperparameter() -> None:
    assert TEXT.count("RAY_AUTH_MODE=token ~/venv/bin/ray start") == 2
    assert not re.search(r"(?i)(secret|password|aws_access|api_key)\s*[:=]", TEXT)
    assert not re.search(r"learning_rate|temperature|max_steps", TEXT)
