"""Stores on hosts of their own answer over TLS to those who have the password."""

from __future__ import annotations

from tests.hosts.certificates import CA, Authority
from tests.hosts.host import Host
from tests.hosts.network import Network
from tests.hosts.stores import REDIS_PORT, Store, start_postgres, start_redis, start_s3

S3_ROUND_TRIP = """
import sys
from pyarrow.fs import S3FileSystem
endpoint, user, password, authority = sys.argv[1:]
def connect(password):
    return S3FileSystem(access_key=user, secret_key=password, endpoint_override=endpoint, tls_ca_file_path=authority,
                        region="us-east-1", allow_bucket_creation=True)
s3 = connect(password)
s3.create_dir("bucket")
with s3.open_output_stream("bucket/key") as stream:
    stream.write(b"value")
print(s3.open_input_file("bucket/key").read().decode())
try:
    connect("wrong").open_input_file("bucket/key")
except OSError as error:
    print("ACCESS_DENIED" in str(error))
"""


def redis(client: Host, store: Store, password: str, *options: str) -> str:
    command = ["redis-cli", "-h", store.host.name, "-p", str(REDIS_PORT), *options, "SET", "key", "value"]
    result = client.run("timeout", "5", *command, env={"REDISCLI_AUTH": password} if password else {}, check=False)
    return (result.stdout + result.stderr).strip()


def psql(client: Host, store: Store, parameters: str, password: str, sql: str = "SELECT 1") -> tuple[int, str]:
    url = f"host={store.host.name} dbname=rayloop user={store.user} connect_timeout=5 {parameters}"
    result = client.run("psql", url, "-XAtc", sql, env={"PGPASSWORD": password}, check=False)
    return result.returncode, result.stdout.strip() or result.stderr.strip()


def test_redis_answers_over_tls_with_the_password_only(network: Network, authority: Authority, client: Host) -> None:
    store = start_redis(network.add("redis"), authority)
    assert redis(client, store, store.password, "--tls", "--cacert", CA) == "OK"
    assert "NOAUTH" in redis(client, store, "", "--tls", "--cacert", CA)
    assert "WRONGPASS" in redis(client, store, "wrong", "--tls", "--cacert", CA)
    assert "certificate verify failed" in redis(client, store, store.password, "--tls")
    assert redis(client, store, store.password) != "OK"
    store.host.freeze()
    assert redis(client, store, store.password, "--tls", "--cacert", CA) != "OK"
    store.host.thaw()
    assert redis(client, store, store.password, "--tls", "--cacert", CA) == "OK"
    store.process.stop()
    assert "refused" in redis(client, store, store.password, "--tls", "--cacert", CA)


def test_postgres_answers_over_tls_and_keeps_rows_over_a_reboot(
    network: Network, authority: Authority, client: Host
) -> None:
    store = start_postgres(network.add("postgres"), authority)
    verified = f"sslmode=verify-full sslrootcert={CA}"
    assert psql(client, store, verified, store.password, "CREATE TABLE kept AS SELECT 7 AS n") == (0, "SELECT 1")
    assert psql(client, store, verified, "wrong")[0] != 0
    assert psql(client, store, "sslmode=disable", store.password)[0] != 0
    store.host.kill()
    store.host.boot()
    again = start_postgres(store.host, authority)
    assert psql(client, again, verified, store.password, "SELECT n FROM kept") == (0, "7")


def test_s3_stores_an_object_for_the_key_pair_only(network: Network, authority: Authority, client: Host) -> None:
    store = start_s3(network.add("s3"), authority)
    answer = client.run("python", "-c", S3_ROUND_TRIP, store.url, store.user, store.password, CA)
    assert answer.stdout.split() == ["value", "True"]
