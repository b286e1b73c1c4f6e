"""Makes a package with entry points importable and visible, as `pip install --target` would, without running pip."""

import shutil
import tomllib
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "plugin_package"


def install(site: Path, *, package: Path = EXAMPLE, version: str | None = None) -> Path:
    """Copy a package into the folder `site` and write its metadata from its `pyproject.toml`; returns the folder."""
    project = tomllib.loads((package / "pyproject.toml").read_text("utf-8"))
    for name in project["tool"]["setuptools"]["packages"]:
        shutil.copytree(package / name, site / name, dirs_exist_ok=True)
    groups = project["project"]["entry-points"]
    return announce(site, project["project"]["name"], version or project["project"]["version"], groups)


def announce(site: Path, name: str, version: str, groups: dict[str, dict[str, str]]) -> Path:
    """Write the metadata of a package: its name, version and entry points by group; returns the folder."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", "utf-8")
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{entry} = {value}" for entry, value in entries.items()), ""]
    (info / "entry_points.txt").write_text("\n".join(lines), "utf-8")
    return site
