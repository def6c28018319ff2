"""Claims: of all processes that act as the same writer, the newest may write.

A process that was cut off or stopped does not know that another has taken its place. Each has an epoch, which the
catalog's database issues, and each commit checks it in the transaction that makes the commit.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from cluster.errors import ClaimOutdated, WriterReplaced
from cluster.limits import limit_database
from cluster.settings import Settings

_WRITERS = sa.Table(
    "rayloop_writers",
    sa.MetaData(),
    sa.Column("writer", sa.String(255), primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(32), nullable=False),
)


class Claim:
    """The right to write, until a newer claim is made."""

    def __init__(self, engine: sa.Engine, writer: str, holder: str, epoch: int) -> None:
        self._engine = engine
        self._holder = holder
        self.writer = writer
        self.epoch = epoch

    @classmethod
    def take(cls, settings: Settings, writer: str, holder: str, before: Claim | None = None) -> Claim:
        """Make the newest claim.

        Args:
            settings: Where the catalog is. A REST catalog has no database: then the claims are beside the API keys.
            writer: What is written; the name of an actor.
            holder: Identifies the process, whose claims do not replace it.
            before: The claim that the process has, which is renewed.

        Raises:
            WriterReplaced: There is a newer claim than ``before``.
        """
        if before is not None:
            return before.renew()
        catalog = settings.iceberg
        uri = catalog["uri"] if catalog["type"] == "sql" else settings.access_uri
        engine = sa.create_engine(limit_database(uri), poolclass=NullPool)
        if engine.url.get_backend_name() == "sqlite" and engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        # Two processes may create the table at once.
        with suppress(DBAPIError):
            _WRITERS.create(engine, checkfirst=True)
        with engine.begin() as connection:
            raised = _raise_epoch(_WRITERS.c.writer == writer).values(holder=holder)
            if not connection.execute(raised).rowcount:
                row = {"writer": writer, "epoch": int(time.time()), "holder": holder}
                connection.execute(sa.insert(_WRITERS).values(row))
            return cls(engine, writer, holder, connection.execute(_newest(writer)).one().epoch)

    def renew(self) -> Claim:
        """Return the same claim with a new epoch: nothing that was begun under this one can still be committed.

        Raises:
            WriterReplaced: There is a newer claim.
        """
        with self._engine.begin() as connection:
            mine = sa.and_(_WRITERS.c.writer == self.writer, _WRITERS.c.holder == self._holder)
            if not connection.execute(_raise_epoch(mine)).rowcount:
                self.check(connection)
            epoch = connection.execute(_newest(self.writer)).one().epoch
        return Claim(self._engine, self.writer, self._holder, epoch)

    def check(self, connection: sa.Connection) -> None:
        """Check the claim in the transaction of a connection to its database; until that ends, no newer one is made.

        Raises:
            WriterReplaced: Another process has a newer claim.
            ClaimOutdated: This process has: one that it had given up waiting for came late, or it was renewed.
        """
        row = connection.execute(_newest(self.writer).with_for_update(read=True)).one_or_none()
        newest, holder = row or (None, "")
        if newest == self.epoch:
            return
        if holder == self._holder:
            raise ClaimOutdated("cluster.claim_outdated", writer=self.writer, epoch=self.epoch, newest=newest)
        raise WriterReplaced("cluster.writer_replaced", writer=self.writer, epoch=self.epoch, newest=newest)

    def check_now(self) -> None:
        """Check the claim by itself. Raises WriterReplaced."""
        with self._engine.connect() as connection:
            self.check(connection)


def _raise_epoch(where: sa.ColumnElement[bool]) -> sa.Update:
    # Beyond the seconds of the clock, so that a database that was lost or restored never issues an epoch twice.
    now, following = int(time.time()), _WRITERS.c.epoch + 1
    return sa.update(_WRITERS).where(where).values(epoch=sa.case((following > now, following), else_=now))


def _newest(writer: str) -> sa.Select[int, str]:
    return sa.select(_WRITERS.c.epoch, _WRITERS.c.holder).where(_WRITERS.c.writer == writer)
