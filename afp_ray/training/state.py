"""Resumable states of a trial in training: whatever the next step depends on, written whole, verified when read.

    <folder>/step-000010/model.safetensors       weights that are trained, tied ones once
                         optimizer.safetensors   moments, step counts and lost parts
                         loss.safetensors        queue of negatives and its slow copy, where there is one
                         state.json              step, identity, running sums, plan of the nested states
                         manifest.json           SHA-256 of each file

What is random in a step is drawn from the seed, the step and the worker's rank, and so is the order of rows: nothing of
the generators needs to be kept. Workers whose weights are equal share the state that the first one writes. Where the
weights are shared out, each worker keeps a folder of its own, and all go back to the newest step that all have whole.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from afp_ray.errors import AfpError
from afp_ray.models.manifest import verify_manifest
from afp_ray.store import write_atomic
from afp_ray.training.gather import rank, sum_over_workers, world_size
from afp_ray.training.state_tree import flatten, restore
from afp_ray.training.whole_folders import remove_unfinished, require_space, written_whole

logger = logging.getLogger(__name__)

_FORMAT = 1
_STEP = re.compile(r"step-(\d+)")
_STATE = "state.json"


@dataclass(frozen=True)
class TrainingState:
    """What was read back.

    Attributes:
        step: optimizer steps that are done.
        parts: nested state by name, as given to `States.save`.
        record: the JSON value given there.
    """

    step: int
    parts: dict[str, Any]
    record: dict[str, Any]


class States:
    """The last resumable states of one trial; each of its workers has such an object and calls it as the others do.

    Args:
        folder: made when the first state is written.
        identity: JSON; a state is used only where it has the same, and a note names what differs.
        keep_last: states that stay, >= 1.
        model: tells whether weights are shared out among workers.
        device: where flags travel between workers.

    Attributes:
        notes: what was passed over or could not be written, in sentences.
    """

    def __init__(
        self, folder: Path, *, identity: Mapping[str, Any], keep_last: int, model: nn.Module, device: torch.device
    ) -> None:
        self._mesh = next((value.device_mesh for value in model.parameters() if isinstance(value, DTensor)), None)
        self._folder = folder if self._mesh is None else folder / f"worker-{rank()}"
        self._is_writer = rank() == 0 or self._mesh is not None
        workers = {"workers": world_size()} if self._mesh is not None else {}
        self._identity = json.loads(json.dumps({**identity, **workers}))
        self._keep_last, self._device = keep_last, device
        self.notes: list[str] = []

    def save(self, step: int, parts: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
        """Write the state after `step` steps and remove the oldest ones.

        A disk that is too full, or refuses, costs this state and a warning: training goes on.

        Args:
            step: optimizer steps that are done.
            parts: nested state by name; in each, tensors and plain values, see `state_tree.flatten`.
            record: JSON.
        Returns: whether it is durable now; True on workers that have nothing to write.
        """
        if not self._is_writer:
            return True
        flat = {name: flatten(value) for name, value in parts.items()}
        num_bytes = sum(tensor.nbytes for tensors, _ in flat.values() for tensor in tensors.values())
        folder = self._folder_of(step)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._make_room(num_bytes)
            with written_whole(folder) as temporary:
                for name, (tensors, _) in flat.items():
                    if tensors:
                        # On the CPU one part at a time: a GPU has no room for copies, the host may have little.
                        own = {key: tensor.contiguous() for key, tensor in tensors.items()}
                        save_file(own, temporary / f"{name}.safetensors")
                content = {"format": _FORMAT, "step": step, "identity": self._identity, "record": record}
                plans = {name: plan for name, (_, plan) in flat.items()}
                write_atomic(temporary / _STATE, json.dumps({**content, "parts": plans}, allow_nan=False))
        except (OSError, SafetensorError, AfpError) as error:
            self._note(f"the state of step {step} was not saved: {error}")
            return False
        for old in self._steps()[self._keep_last :]:
            self._remove(old)
        return True

    def load_latest(self) -> TrainingState | None:
        """Read the newest state that is whole on every worker and of this run; what is newer is removed.

        Returns: None when there is none; `notes` says what was passed over and why.
        """
        if self._is_writer:  # another worker might be here while the first one still writes
            remove_unfinished(self._folder / "step-*")
        for step in _from_first(self._steps()):
            state = self._read(step)
            if _all_workers(state is not None, self._device):
                return state
            if self._is_writer:
                self._remove(step)
        return None

    def remove(self) -> None:
        """Remove all states."""
        if self._is_writer:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, step: int) -> TrainingState | None:
        folder = self._folder_of(step)
        try:
            verify_manifest(folder)
            content = json.loads((folder / _STATE).read_bytes())
            if content["step"] != step:
                self._note(f"the state in {folder.name} is of step {content['step']}, was moved, and was passed over")
                return None
            different = [
                name
                for name in sorted({*self._identity, *content["identity"]})
                if self._identity.get(name) != content["identity"].get(name)
            ]
            if content["format"] != _FORMAT or different:
                what = ", ".join(different) or "its format"
                self._note(f"the state of step {step} is of another run and was passed over: {what} differs")
                return None
            parts = {}
            for name, plan in content["parts"].items():
                file = folder / f"{name}.safetensors"
                parts[name] = restore(load_file(file) if file.is_file() else {}, plan, mesh=self._mesh)
            return TrainingState(step, parts, content["record"])
        except (OSError, SafetensorError, AfpError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._note(f"the state of step {step} cannot be used and was passed over: {first}")
            return None

    def _make_room(self, num_bytes: int) -> None:
        """Remove old states, never the newest, until the disk has room; raise where that is not enough."""
        for old in [*reversed(self._steps()[1:]), None]:
            try:
                return require_space(self._folder, num_bytes, what="a resumable state")
            except AfpError:
                if old is None:
                    raise
                self._remove(old)

    def _steps(self) -> list[int]:
        """Steps of the states that are there, the newest first."""
        matches = [_STEP.fullmatch(path.name) for path in self._folder.glob("step-*")]
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _folder_of(self, step: int) -> Path:
        return self._folder / f"step-{step:06d}"

    def _remove(self, step: int) -> None:
        shutil.rmtree(self._folder_of(step), ignore_errors=True)

    def _note(self, text: str) -> None:
        logger.warning(text)
        self.notes.append(text)


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that training changes, by name, tied ones once; buffers and frozen weights are those that were loaded."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


@torch.no_grad()
def set_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the trained weights of a model these values, in place.

    Raises: KeyError when one is missing.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weights[name])


def _from_first(steps: list[int]) -> list[int]:
    """The list of the first worker."""
    if world_size() == 1:
        return steps
    shared = [steps]
    dist.broadcast_object_list(shared, src=0)
    return shared[0]


def _all_workers(flag: bool, device: torch.device) -> bool:
    count = sum_over_workers(torch.tensor(int(flag), device=device))
    return int(count) == world_size()
