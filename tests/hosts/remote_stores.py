"""All of rayloop's stores on hosts of their own, and the variables with which a cluster finds them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from tests.hosts.certificates import CA, Authority
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.stores import start_postgres, start_redis, start_s3

_CREATE_BUCKET = """
import os
from pyarrow.fs import S3FileSystem
S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True).create_dir("rayloop")
"""


class RemoteStores:
    """PostgreSQL, Redis and S3, each with a password and over TLS."""

    def __init__(self, network: Network, authority: Authority, prefix: str) -> None:
        self._authority = authority
        self.postgres = start_postgres(network.add(f"{prefix}-postgres"), authority)
        self.redis = start_redis(network.add(f"{prefix}-redis"), authority)
        self.s3 = start_s3(network.add(f"{prefix}-s3"), authority)
        self.passwords = [store.password for store in (self.postgres, self.redis, self.s3)]

    def variables(self) -> dict[str, str]:
        """What rayloop.env of a cluster's nodes holds."""
        database = f"{self.postgres.url.replace('postgresql:', 'postgresql+psycopg2:')}?sslmode=verify-full"
        database += f"&sslrootcert={CA}"
        redis = self.redis.url.removesuffix("/0")
        return {
            "RAYLOOP_TRACKING_URI": database,
            "RAYLOOP_ARTIFACT_ROOT": "s3://rayloop/mlflow",
            "RAYLOOP_CATALOG_URI": database,
            "RAYLOOP_WAREHOUSE": "s3://rayloop/warehouse",
            "RAYLOOP_ONLINE_STORE": f"{redis}/1",
            "RAYLOOP_ACCESS": "on",
            "RAYLOOP_ACCESS_STORE": database,
            "RAYLOOP_ACCESS_RATE": "6000/minute",
            "RAYLOOP_RATE_STORE": f"{redis}/2",
            "AWS_ENDPOINT_URL": self.s3.url,
            "AWS_ACCESS_KEY_ID": self.s3.user,
            "AWS_SECRET_ACCESS_KEY": self.s3.password,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CA_BUNDLE": CA,
            "SSL_CERT_FILE": CA,
        }

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop PostgreSQL and Redis meanwhile; Redis is empty afterwards."""
        self.redis.process.stop()
        # SIGTERM would wait until every client is gone.
        self.postgres.process.stop(signal.SIGINT)
        try:
            yield
        finally:
            self.redis = start_redis(self.redis.host, self._authority)
            self.postgres = start_postgres(self.postgres.host, self._authority)

    def create_bucket(self, client: Host, variables: str) -> None:
        """Create the bucket from a host; ``variables`` is a file of it, because arguments are for all to read."""
        client.run("bash", "-c", f'set -a; . {variables}; exec python -c "$0"', _CREATE_BUCKET)
