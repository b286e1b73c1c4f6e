"""Keeps studies at a URL: a working copy on this machine, pulled before it is read and pushed while it is driven."""

from afp_ray.remote.keeping import ask_to_stop, keeping, pull_for_reading
from afp_ray.remote.place import Place, is_url, place_of, working_copy

__all__ = [
    "Place",
    "ask_to_stop",
    "is_url",
    "keeping",
    "place_of",
    "pull_for_reading",
    "working_copy",
]
