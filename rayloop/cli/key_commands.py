"""``rayloop keys``: create, list and revoke API keys of the served models; see docs/access.md."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cluster.errors import RayloopError
from cluster.settings import load_settings
from cluster.times import format_utc
from rayloop.cli.submission import require_stores
from rayloop.console import table_lines

if TYPE_CHECKING:
    from deployments.auth.credentials import ApiKey, Scope
    from deployments.auth.key_store import KeyStore

_UNITS_S = {"m": 60, "h": 3600, "d": 86400}
_COLUMNS = ("id", "state", "name", "models", "scopes", "rate", "created", "expires")

app = typer.Typer(help="Manage the API keys of the served models.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Who uses the key; shown in the list")],
    model: Annotated[
        list[str], typer.Option(help="Model that the key gives access to, repeatable; '*' for every model")
    ],
    scope: Annotated[list[str] | None, typer.Option(help="infer, feedback or read, repeatable; default: all")] = None,
    expires: Annotated[str, typer.Option(help="Lifetime: 30m, 12h, 90d; default: never expires")] = "",
    rate: Annotated[str, typer.Option(help="Rate limit: 100/minute; default: RAYLOOP_ACCESS_RATE")] = "",
) -> None:
    """Create a key. Only the key goes to standard output: KEY=$(rayloop keys create …). It is not shown again."""
    from deployments.auth.authenticator import KEY_EFFECTIVE_WITHIN_S
    from deployments.auth.rate_limits import parse_rate

    settings = load_settings()
    now = time.time()
    expires_at = now + _seconds(expires) if expires else None
    if rate:
        parse_rate(rate)
    key, text = _store().issue(name, tuple(model), _scopes(scope), now, rate=rate, expires_at=expires_at)
    typer.echo(text)
    typer.echo(
        f"key {key.id} of {name}: {', '.join(key.models)} ({', '.join(key.scopes)}), expires {_day(expires_at)}.\n"
        f"It is shown once and takes effect within {KEY_EFFECTIVE_WITHIN_S:g} s. If KEY holds it:\n"
        f'curl -H "Authorization: Bearer $KEY" {settings.endpoint}/v2/models/{_example(key)}',
        err=True,
    )
    if not settings.access:
        typer.echo("Access control is off: set RAYLOOP_ACCESS=on before you deploy.", err=True)


@app.command("list")
def show() -> None:
    """List all keys, newest last, without their secrets."""
    now = time.time()
    for line in table_lines([_COLUMNS, *(_row(key, now) for key in _store().read().values())]):
        typer.echo(line)


@app.command()
def revoke(id: Annotated[str, typer.Argument(help="The key's id, as `rayloop keys list` shows it")]) -> None:
    """Revoke a key."""
    from deployments.auth.authenticator import KEY_EFFECTIVE_WITHIN_S

    key = _store().revoke(id, time.time())
    typer.echo(f"key {key.id} of {key.name} is revoked, on every replica within {KEY_EFFECTIVE_WITHIN_S:g} s")


def _store() -> KeyStore:
    from deployments.auth.key_store import KeyStore

    settings = load_settings()
    require_stores(settings, "access_store")
    return KeyStore(settings.access_uri)


def _scopes(names: list[str] | None) -> tuple[Scope, ...]:
    from deployments.auth.credentials import SCOPES

    unknown = [name for name in names or () if name not in SCOPES]
    if unknown:
        raise RayloopError("rayloop.unknown_scope", scope=unknown[0], choices=SCOPES)
    return cast("tuple[Scope, ...]", tuple(names)) if names else SCOPES


def _seconds(text: str) -> int:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if not match:
        raise RayloopError("rayloop.invalid_duration", value=text)
    return int(match[1]) * _UNITS_S[match[2]]


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    expired = key.expires_at is not None and now >= key.expires_at
    state = "revoked" if key.revoked_at is not None else "expired" if expired else "active"
    names = (",".join(key.models), ",".join(key.scopes), key.rate or "-")
    return (key.id, state, key.name, *names, _day(key.created_at), _day(key.expires_at))


def _day(at: float | None) -> str:
    return format_utc(at, "%Y-%m-%dT%H:%MZ")


def _example(key: ApiKey) -> str:
    from deployments.auth.credentials import ANY_MODEL

    return "MODEL" if key.models[0] == ANY_MODEL else key.models[0]
