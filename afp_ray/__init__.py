"""Which cross-lingual alignment recipe works for a multilingual language model, and which part of it matters.

Everything that is listed here is loaded when it is first used:

    import afp_ray as afp

    afp.run("demo")
    afp.best("demo").config.loss.temperature
    afp.compare("demo").to_frame()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from afp_ray.config import StudyConfig as StudyConfig
    from afp_ray.config import TrialConfig as TrialConfig
    from afp_ray.errors import AfpError as AfpError
    from afp_ray.errors import ConfigError as ConfigError
    from afp_ray.errors import UserError as UserError
    from afp_ray.face import best as best
    from afp_ray.face import compare as compare
    from afp_ray.face import evaluate as evaluate
    from afp_ray.face import load as load
    from afp_ray.face import plan as plan
    from afp_ray.face import resume as resume
    from afp_ray.face import run as run
    from afp_ray.face import status as status
    from afp_ray.face import trials as trials
    from services.client import AsyncClient as AsyncClient
    from services.client import Client as Client

__version__ = "0.1.0"

_HOMES = {
    **dict.fromkeys(("StudyConfig", "TrialConfig"), "afp_ray.config"),
    **dict.fromkeys(("AfpError", "ConfigError", "UserError"), "afp_ray.errors"),
    **dict.fromkeys(
        ("best", "compare", "evaluate", "load", "plan", "resume", "run", "status", "trials"), "afp_ray.face"
    ),
    **dict.fromkeys(("AsyncClient", "Client"), "services.client"),
}
__all__ = [
    "AfpError",
    "AsyncClient",
    "Client",
    "ConfigError",
    "StudyConfig",
    "TrialConfig",
    "UserError",
    "__version__",
    "best",
    "compare",
    "evaluate",
    "load",
    "plan",
    "resume",
    "run",
    "status",
    "trials",
]


def __getattr__(name: str) -> Any:
    """What is listed above, from the module that has it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'afp_ray' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
