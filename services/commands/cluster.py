"""The verb `afp submit`: a study as a job of a Ray cluster."""

import os
from typing import Annotated

import typer

from afp_ray.errors import ConfigError
from services.commands.options import AllowOpen, Drift, Json, Sets, Small, StudyFile


def submit(
    study: StudyFile,
    address: Annotated[
        str | None, typer.Option(help="The cluster's dashboard, http://host:port [default: $RAY_API_SERVER_ADDRESS].")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Folder of the studies on the cluster [default: the cluster's own].")
    ] = None,
    sets: Sets = None,
    small: Small = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is there.")] = False,
    allow_drift: Drift = False,
    allow_open: AllowOpen = False,
    as_json: Json = False,
) -> None:
    """Run a study as a job of a Ray cluster and follow it; a study that is submitted again finds its job."""
    from services.studies import load
    from services.submission import submit as submit_study

    dashboard = address or os.environ.get("RAY_API_SERVER_ADDRESS")
    if not dashboard:
        raise ConfigError(
            "no cluster was named", where="--address", allowed="http://HOST:PORT", fix="give --address of its dashboard"
        )
    code = submit_study(
        load(study, sets, small=small),
        dashboard,
        storage=storage,
        allow_open=allow_open,
        allow_drift=allow_drift,
        detach=detach,
        as_json=as_json,
    )
    raise SystemExit(code)  # as in `services.cli`: 130 of a study is its own
