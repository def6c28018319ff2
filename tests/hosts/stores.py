"""Stores, each on a host of its own, with a password and with TLS only."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hosts.certificates import CA, CERTIFICATE, KEY, Authority
from tests.hosts.host import Host
from tests.hosts.process import Process

REDIS_PORT, POSTGRES_PORT, S3_PORT = 6379, 5432, 8333
_POSTGRES = "/srv/postgres"
_AS_POSTGRES = ("env", "--chdir=/srv", "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")


class Store(NamedTuple):
    """A running store. ``url`` holds user and password, but no parameter for the authority (certificates.CA)."""

    host: Host
    process: Process
    url: str
    user: str
    password: str


def start_redis(host: Host, authority: Authority) -> Store:
    """Redis; what it holds ends with its process. Started again on the same host, it has the same password."""
    program, password = _program("redis-server"), _password(host, "/srv/redis.password")
    authority.equip(host)
    tls = f"tls-port {REDIS_PORT}\ntls-cert-file {CERTIFICATE}\ntls-key-file {KEY}\ntls-ca-cert-file {CA}\n"
    settings = f'port 0\n{tls}tls-auth-clients no\nrequirepass {password}\nsave ""\ndir /srv\n'
    host.write("/srv/redis.conf", settings)
    process = host.start(program, "/srv/redis.conf")
    host.wait_for_port(REDIS_PORT, process)
    return Store(host, process, f"rediss://:{password}@{host.name}:{REDIS_PORT}/0", "default", password)


def start_postgres(host: Host, authority: Authority) -> Store:
    """PostgreSQL with a database ``rayloop``; started again on the same host, it has its rows still."""
    initdb = _program("initdb", *_postgres_folders())
    password = _password(host, "/srv/postgres.password")
    if not host.path(_POSTGRES).exists():
        _create_postgres(host, authority, initdb)
    process = host.start(*_AS_POSTGRES, str(Path(initdb).with_name("postgres")), "-D", _POSTGRES)
    # Its port is open before it has recovered from a crash.
    host.wait_for(str(Path(initdb).with_name("pg_isready")), "--quiet", "--host", host.address, process=process)
    url = f"postgresql://rayloop:{password}@{host.name}:{POSTGRES_PORT}/rayloop"
    return Store(host, process, url, "rayloop", password)


def _create_postgres(host: Host, authority: Authority, initdb: str) -> None:
    authority.equip(host)
    host.run("install", "-d", "-o", "postgres", "-m", "0700", _POSTGRES)
    for path in ("/srv/postgres.password", KEY):
        host.run("chown", "postgres", path)
    login = ["--username=rayloop", "--pwfile=/srv/postgres.password", "--auth=scram-sha-256"]
    host.run(*_AS_POSTGRES, initdb, "--pgdata", _POSTGRES, "--no-sync", "--encoding=UTF8", *login)
    tls = f"ssl = on\nssl_cert_file = '{CERTIFICATE}'\nssl_key_file = '{KEY}'\n"
    settings = f"{tls}listen_addresses = '*'\nunix_socket_directories = '/tmp'\n"
    for name, content in (("postgresql.auto.conf", settings), ("pg_hba.conf", "hostssl all all all scram-sha-256\n")):
        host.path(f"{_POSTGRES}/{name}").write_text(content)
    single = (*_AS_POSTGRES, str(Path(initdb).with_name("postgres")), "--single", "-F", "-D", _POSTGRES, "postgres")
    host.run("sh", "-c", 'echo "CREATE DATABASE rayloop" | "$@"', "sh", *single)


def start_s3(host: Host, authority: Authority) -> Store:
    """SeaweedFS's S3; objects stay on the host's disk. The URL holds no keys: user and password are the key pair."""
    program, user, password = _program("weed"), "rayloop", secrets.token_urlsafe()
    authority.equip(host)
    keys = [{"accessKey": user, "secretKey": password}]
    identities = [{"name": user, "credentials": keys, "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]
    host.write("/srv/s3.json", json.dumps({"identities": identities}))
    host.path("/srv/s3").mkdir(exist_ok=True)
    process = host.start(
        # All but S3 has neither password nor TLS, and stays inside.
        *(program, "server", "-dir=/srv/s3", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"),
        *("-master.volumeSizeLimitMB=64", "-master.telemetry=false", "-volume.max=64", "-volume.preStopSeconds=0"),
        *("-s3.config=/srv/s3.json", f"-s3.port={S3_PORT}", f"-s3.ip.bind={host.address}"),
        *(f"-s3.cert.file={CERTIFICATE}", f"-s3.key.file={KEY}"),
    )
    host.wait_for_port(S3_PORT, process)
    return Store(host, process, f"https://{host.name}:{S3_PORT}", user, password)


def _password(host: Host, path: str) -> str:
    """The password in this file of the host, which is made when it is not there."""
    if not host.path(path).exists():
        host.write(path, secrets.token_urlsafe())
    return host.path(path).read_text()


def _postgres_folders() -> list[str]:
    return [str(folder) for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]


def _program(name: str, *folders: str) -> str:
    """Return the path of a program; the test is skipped where it is not installed."""
    # Programs of Python packages are beside the interpreter.
    path = shutil.which(name, path=os.pathsep.join([*folders, str(Path(sys.executable).parent), os.environ["PATH"]]))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path
