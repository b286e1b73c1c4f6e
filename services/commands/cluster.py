"""The commands about machines: `submit` to a cluster, `serve` from this machine, and `doctor`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from afp_ray.errors import ConfigError
from services.commands.options import Address, AllowOpen, Drift, Json, Sets, Small, Storage, StudyFile
from services.doctor import examine
from services.output import USAGE, say, say_json
from services.studies import complete_study_file, load, storage_folder
from services.submission import submit as submit_study

app = typer.Typer(rich_markup_mode=None)


@app.command()
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
    raise SystemExit(code)  # as in `commands.study`: 130 of a study is its own


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine it needs TLS.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    storage: Storage = None,
    tls_cert: Annotated[Path | None, typer.Option(help="File of a certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="File of its key.")] = None,
    behind_tls_proxy: Annotated[
        bool, typer.Option("--behind-tls-proxy", help="A proxy with TLS passes requests on: all of them need a token.")
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1e6, help="Requests a second that one token or address may make.")
    ] = 50.0,
    data: Annotated[
        list[Path] | None, typer.Option(help="Folder that submitted studies may read, beside $AFP_DATA_DIR.")
    ] = None,
    trust_submitters: Annotated[
        bool, typer.Option("--trust-submitters", help="Let submitted studies do all that this user may.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A cluster's dashboard, http://host:port, whose jobs run submitted studies.")
    ] = None,
) -> None:
    """Serve studies over HTTP: a page at /, the API under /v1; on this machine alone unless told otherwise."""
    from services.drivers import start_with
    from services.guard import Limits
    from services.intake import Rules
    from services.permissions import data_folders
    from services.server import Exposure  # the web libraries, which the other commands do not need
    from services.server import serve as listen

    exposure = Exposure(host, port, tls_cert, tls_key, behind_tls_proxy)
    rules = Rules(start_with(address), data_folders(data or ()), trust_submitters)
    listen(storage_folder(storage), exposure, limits=Limits(requests_per_s=rate), rules=rules)


@app.command()
def doctor(
    study: Annotated[
        str | None,
        typer.Argument(help="A study file whose needs are looked at as well.", autocompletion=complete_study_file),
    ] = None,
    storage: Storage = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Check versions, GPUs, disk, tracking and cluster, each with its fix; 2 when something would not work."""
    checks = examine(storage_folder(storage), address=address, study=load(study) if study else None)
    if as_json:
        say_json(list(checks))
    for check in () if as_json else checks:
        say(f"{check.verdict:<5} {check.name:<16} {check.found}")
        if check.fix and check.verdict != "OK":
            say(f"      {'':<16} fix: {check.fix}")
    if any(check.verdict == "FAIL" for check in checks):
        raise typer.Exit(USAGE)
