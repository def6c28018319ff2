"""``rayloop move``: requests of a model go to a second cluster beside this one, and back; see docs/cluster.md."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.settings import load_settings
from rayloop.cli.submission import submit_outside

app = typer.Typer(help="Move requests to a second cluster, for an upgrade, and back.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="Name of the model")]


@app.command()
def to(
    address: Annotated[str, typer.Argument(help="Dashboard of the second cluster: http://host:8265")],
    model: Model,
    share: Annotated[float, typer.Option(help="Percent of the keys; 0 only compares the answers", min=0, max=100)],
    rows: Annotated[
        int, typer.Option(help="Rows of the prediction log that both clusters answer; 0: none", min=0)
    ] = 100,
    anyway: Annotated[bool, typer.Option("--anyway", help="Move although answers differ")] = False,
) -> None:
    """Send a share of a model's keys to a second cluster, which serves the same version on the same stores."""
    settings = load_settings()
    if not submit_outside(settings, "move to", address, model, share=str(share), rows=str(rows), anyway=anyway):
        from rayloop.upgrade.move import move_model

        move_model(settings, model, address, share / 100, rows, anyway, typer.echo)


@app.command()
def show() -> None:
    """Show the models that move, and their replicas in both clusters."""
    settings = load_settings()
    if not submit_outside(settings, "move show"):
        from rayloop.upgrade.move import show_moves

        show_moves(settings, typer.echo)


@app.command()
def back(model: Annotated[str, typer.Argument(help="Name of the model; default: all that move")] = "") -> None:
    """Send all requests to this cluster, within a second."""
    settings = load_settings()
    if not submit_outside(settings, "move back", *([model] if model else [])):
        from rayloop.upgrade.move import move_back

        move_back(settings, model, typer.echo)


@app.command()
def finish(model: Model) -> None:
    """Delete a model in this cluster, once all its requests go to the second one."""
    settings = load_settings()
    if not submit_outside(settings, "move finish", model):
        from rayloop.upgrade.move import finish_move

        finish_move(settings, model, typer.echo)
