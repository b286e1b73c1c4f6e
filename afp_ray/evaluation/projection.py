"""Sentence states in two dimensions: axes that are fixed on one model and drawn for others, and their file.

Trials know nothing of each other, so each leaves what the others may need: its own axes at every layer, and its states
at the layer that it is reported at. A report then draws any of them in the axes of base.

Shapes: N sentences, D width.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afp_ray.store import write_atomic

FORMAT = 1
_HEAD = "afp_ray"
LayerPooling = tuple[int, str]
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Axes:
    """The two directions in which a cloud of states is widest.

    Attributes:
        mean: (D,) middle of the cloud, the origin of the axes.
        directions: (2, D) orthonormal rows; zeros where the cloud has no second direction.
        shares: shares of the cloud's variance along each, in [0, 1].
    """

    mean: Floats
    directions: Floats
    shares: tuple[float, float]

    def project(self, states: Floats) -> Floats:
        """(N, 2) coordinates of (N, D) states."""
        return np.asarray((states.astype(np.float64) - self.mean) @ self.directions.T)


@dataclass(frozen=True, slots=True)
class PairRetrieval:
    """Which translations of held-out pairs are found.

    Attributes:
        languages, contents: of the P pairs; pairs of one content share a sentence.
        found: by layer and pooling, (P,) in how many of both directions the translation is nearest: 0, 1 or 2.
    """

    languages: tuple[str, ...]
    contents: tuple[str, ...]
    found: Mapping[LayerPooling, NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class SentenceStates:
    """What one trial leaves for drawings and comparisons.

    Attributes:
        languages: of the N sentences.
        headline: layer and pooling that the trial is reported at.
        states: (N, D) float16 there.
        axes: by layer and pooling.
    """

    languages: tuple[str, ...]
    headline: LayerPooling
    states: Floats
    axes: Mapping[LayerPooling, Axes]
    points: Mapping[LayerPooling, Floats]
    """(N, 2) the trial's own sentences in its own axes, by layer and pooling."""
    retrieval: PairRetrieval | None = None
    """Null in files of before it was kept."""


def fit_axes(states: Floats) -> Axes:
    """Principal axes of (N, D) states, N >= 2; each points to where its largest component is positive."""
    wide = states.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    total = float(np.square(centred).sum())
    directions = np.zeros((2, wide.shape[1]))
    # X'X (D, D) and XX' (N, N) share their eigenvalues, and the vectors of one give those of the other. The smaller is
    # taken: N is some hundreds, D may be thousands.
    is_tall = wide.shape[0] >= wide.shape[1]
    values, vectors = np.linalg.eigh(centred.T @ centred if is_tall else centred @ centred.T)
    shares = [0.0, 0.0]
    for number in range(min(2, len(values))):
        value = float(values[-1 - number])
        if total == 0 or value <= 1e-10 * total:
            continue
        direction = vectors[:, -1 - number] if is_tall else vectors[:, -1 - number] @ centred / np.sqrt(value)
        directions[number] = direction * np.sign(direction[np.abs(direction).argmax()])
        shares[number] = value / total
    return Axes(mean, directions, (shares[0], shares[1]))


def gather_states(
    states: Mapping[LayerPooling, Floats], languages: Sequence[str], headline: LayerPooling
) -> SentenceStates:
    """What a trial leaves, from its (N, D) states at every layer and pooling."""
    axes = {key: fit_axes(values) for key, values in states.items()}
    points = {key: axes[key].project(values) for key, values in states.items()}
    return SentenceStates(tuple(languages), headline, states[headline].astype(np.float16), axes, points)


def write_states(sentences: SentenceStates, path: Path) -> None:
    """Write to a safetensors file, whole or not at all; equal states give equal bytes.

    Raises: UnavailableError when the disk refuses.
    """
    from safetensors.numpy import save

    tensors: dict[str, Any] = {"states": np.ascontiguousarray(sentences.states)}
    for (layer, pooling), axes in sentences.axes.items():
        name = f"{layer}.{pooling}"
        tensors[f"mean.{name}"] = axes.mean.astype(np.float32)
        tensors[f"directions.{name}"] = axes.directions.astype(np.float32)
        tensors[f"points.{name}"] = sentences.points[layer, pooling].astype(np.float32)
    head = {
        "format": FORMAT,
        "languages": list(sentences.languages),
        "place": list(sentences.headline),
        "shares": [[*key, *axes.shares] for key, axes in sentences.axes.items()],
    }
    if sentences.retrieval is not None:
        head["pairs"] = [list(sentences.retrieval.languages), list(sentences.retrieval.contents)]
        for (layer, pooling), found in sentences.retrieval.found.items():
            tensors[f"found.{layer}.{pooling}"] = found
    # One entry: several would be written in any order.
    write_atomic(path, save(tensors, metadata={_HEAD: json.dumps(head)}))


def read_states(path: Path) -> SentenceStates | None:
    """What `write_states` wrote; None when there is no such file, or one that is broken or of another format."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            head = json.loads((file.metadata() or {})[_HEAD])
            if head["format"] != FORMAT:
                return None
            axes, points = {}, {}
            for layer, pooling, first, second in head["shares"]:
                name = f"{layer}.{pooling}"
                mean, directions = file.get_tensor(f"mean.{name}"), file.get_tensor(f"directions.{name}")
                axes[int(layer), str(pooling)] = Axes(mean, directions, (float(first), float(second)))
                points[int(layer), str(pooling)] = file.get_tensor(f"points.{name}")
            states, retrieval = file.get_tensor("states"), _retrieval(file, head)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None
    layer, pooling = head["place"]
    return SentenceStates(tuple(head["languages"]), (int(layer), str(pooling)), states, axes, points, retrieval)


def read_retrieval(path: Path) -> PairRetrieval | None:
    """Which translations a trial found; None without such a file, or with one of before it was kept."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return _retrieval(file, json.loads((file.metadata() or {})[_HEAD]))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError):
        return None


def _retrieval(file: Any, head: Mapping[str, Any]) -> PairRetrieval | None:
    if "pairs" not in head:
        return None
    languages, contents = head["pairs"]
    found = {
        (int(layer), str(pooling)): file.get_tensor(f"found.{layer}.{pooling}") for layer, pooling, *_ in head["shares"]
    }
    return PairRetrieval(tuple(languages), tuple(contents), found)
