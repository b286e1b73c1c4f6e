"""The verbs `afp token`: who may read and submit where the service asks for a token."""

import time
from typing import Annotated

import typer

from services.commands.options import Json, Storage
from services.output import say, say_json, say_secret, say_secret_json
from services.studies import storage_folder
from services.tokens import Scope, TokenRecord, Tokens, seconds_of

app = typer.Typer(help="Make, list and revoke the tokens of the service.", no_args_is_help=True, rich_markup_mode=None)


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Who gets it.")],
    scope: Annotated[Scope, typer.Option(help="read, or submit: all of read, and to run and stop studies.")] = "read",
    expires: Annotated[str | None, typer.Option(help="Until it expires: 12h, 30d [default: never].")] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Make a token and show it once; a hash is kept."""
    tokens = Tokens(storage_folder(storage))
    token, record = tokens.new(name, scope, lifetime_s=None if expires is None else seconds_of(expires))
    if as_json:
        say_secret_json({"token": token, **_shown(record)})
        return
    say_secret(f"token    {token}")
    say(f"         of {name}, to {scope}, {_expiry(record)}; it is not shown again, {tokens.file} has its hash")
    say("use      in the variable AFP_TOKEN, in the field of the service's page, or as the bearer token of a request")


@app.command("list")
def show(storage: Storage = None, as_json: Json = False) -> None:
    """Show the tokens, without what they are."""
    records = Tokens(storage_folder(storage)).records()
    if as_json:
        say_json([_shown(record) for record in records])
        return
    for record in records:
        made = time.strftime("%Y-%m-%d", time.localtime(record.created_at))
        say(f"{record.id}  {record.scope:<6}  made {made}  {_expiry(record):<24}  {record.name}")
    if not records:
        say("there is no token; afp token new NAME makes one")


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Name or id of the token.")],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Forget a token; a service that runs refuses it from the next request on."""
    record = Tokens(storage_folder(storage)).revoke(name)
    say_json(_shown(record)) if as_json else say(f"token {record.id} of {record.name} is revoked")


def _expiry(record: TokenRecord) -> str:
    if record.expires_at is None:
        return "good until revoked"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.expires_at))
    return f"{'expired' if record.is_expired else 'expires'} {when}"


def _shown(record: TokenRecord) -> dict[str, object]:
    return record.model_dump(mode="json", exclude={"sha256"})
