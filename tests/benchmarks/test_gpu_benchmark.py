"""The benchmark of a GPU runs at a toy size on whatever there is, with the few libraries that it promises to need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.figures import FLOOR_MISSED

ROOT = Path(__file__).parent.parent.parent
ONLY_THESE = """
import importlib.machinery, importlib.metadata as metadata, re, sys
from packaging.requirements import Requirement

allowed, waiting = set(), ["torch", "transformers", "safetensors", "numpy", "pydantic", "PyYAML"]
while waiting:
    name = re.sub("[-_.]+", "-", waiting.pop()).lower()
    if name not in allowed:
        allowed.add(name)
        try:
            needed = [Requirement(text) for text in metadata.requires(name) or ()]
        except metadata.PackageNotFoundError:
            continue
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]

class Only(importlib.machinery.PathFinder):
    # Finds no module of another distribution, as if it were not installed.

    refused = {
        module
        for module, names in metadata.packages_distributions().items()
        if not any(re.sub("[-_.]+", "-", name).lower() in allowed | {"afp-ray"} for name in names)
    }

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in cls.refused else super().find_spec(name, path, target)

assert {"ray", "optuna", "mlflow", "datasets", "fastapi", "peft", "scipy"} <= Only.refused
sys.meta_path[:] = [Only if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for name in [name for name in sys.modules if name.partition(".")[0] in Only.refused]:
    del sys.modules[name]
from benchmarks.gpu import main
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_all_figures_are_measured_with_the_promised_libraries_alone() -> None:
    command = [sys.executable, "-c", ONLY_THESE, "--tiny", "--rounds", "1", "--steps", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode in (0, FLOOR_MISSED), done.stderr
    rows = {row["name"]: row for row in map(json.loads, filter(_is_json, done.stdout.splitlines()))}
    assert set(rows) >= {
        "gpu.4_blocks_steps_per_s",
        "gpu.16_blocks_steps_per_s",
        "gpu.every_length_steps_per_s",
        "gpu.2_trials_steps_per_s",
        "gpu.choices_bf16_examples_per_s",
        "gpu.choices_fp32_examples_per_s",
        "gpu.greedy_texts_per_s",
    }
    assert all(row["equal"] is True and row["floor"] is None and row["ratio"] > 0 for row in rows.values())


def _is_json(line: str) -> bool:
    return line.startswith("{")


def test_one_figure_runs_alone_and_its_floor_counts_on_the_cards_that_it_is_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = gpu.Figure("gpu.every_length_steps_per_s", 1.0, 1.0, 1.0, 2.8, True)
    monkeypatch.setattr(gpu, "FIGURES", {"every_length": lambda setting: [figure], "texts": None})
    assert gpu.main(["--tiny", "--only", "every_length"]) == 0
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: None)
    assert gpu.main(["--only", "every_length"]) == FLOOR_MISSED
    assert "MISSED" in capsys.readouterr().out
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA L4")
    assert gpu.main(["--only", "every_length"]) == 0


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu.main([]) == 0
    assert "no CUDA device" in capsys.readouterr().out
