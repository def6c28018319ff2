"""HAProxy's configuration for the door, rendered from values. Pure.

Backends are pools of slots: backend ``m<pool>`` holds the HTTP ports of a model's replicas, ``g<pool>`` their gRPC
ports, slot by slot. Which pool a model has is in a map file. Slots and map change through the admin socket, so that
neither a replica nor a model that comes or goes reloads anything. Pool 0 is the root application's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import Field
from pydantic_core import to_json

from cluster.door.membership import ANY_MODEL, Membership, Replica, Target
from cluster.errors import RequestError
from cluster.fingerprint import json_fingerprint
from cluster.values import Frozen

ROOT_POOL = 0
GRPC_SERVICE = "/inference.GRPCInferenceService/"
# A slot in maintenance keeps an address that nothing listens on.
UNUSED = Target(host="127.0.0.1", port=1)
# A replica that refuses connections, or says that it leaves, is out within a second or so; one that is too busy to
# answer its check gets six seconds, because all of a busy machine would be out at once.
_CHECK = "check inter 500ms fastinter 250ms downinter 250ms fall 3 rise 1"
_OBSERVE = "observe layer4 error-limit 3 on-error mark-down"


class DoorConfig(Frozen):
    """What the door listens on, and its limits; a change takes effect when HAProxy starts."""

    folder: Path
    """Folder of the configuration, the map file and the admin socket."""
    http_fd: int
    """File descriptor of the socket that listens for HTTP."""
    grpc_fd: int
    """File descriptor of the socket that listens for gRPC."""
    metrics_port: int
    """Port of HAProxy's metrics for Prometheus, on the loopback address."""
    tls: bool = False
    """Whether callers use TLS."""
    pools: int = Field(default=33, ge=2)
    """Models that fit, and one for the root application."""
    slots: int = Field(default=32, ge=1)
    """Replicas of a model that fit, those that drain included."""
    threads: int = Field(default=2, ge=1)
    max_connections: int = Field(default=4096, ge=16)
    """Connections of callers; more wait in the kernel. With the buffers' size it bounds the memory they take."""
    request_s: float = 10.0
    """Seconds within which a request's headers, and its body up to the buffers' size, must arrive."""
    idle_body_s: float = 20.0
    """Seconds of silence after which the rest of a body is given up."""
    keep_alive_s: float = 3600.0
    """Seconds after which an idle connection is closed; a caller who sends at that moment loses a request."""
    answer_s: float = 75.0
    """Seconds within which a replica must answer; replicas give up sooner."""

    @property
    def admin_socket(self) -> Path:
        return self.folder / "admin.sock"

    @property
    def map_file(self) -> Path:
        """File that HAProxy reads at its start; also the name of the map in its admin commands."""
        return self.folder / "models.map"

    @property
    def certificate_file(self) -> Path:
        """The certificate that HAProxy uses: chain and key."""
        return self.folder / "certificate.pem"

    @property
    def config_file(self) -> Path:
        return self.folder / "haproxy.cfg"


def assign_pools(models: Iterable[str], config: DoorConfig) -> dict[str, int]:
    """Return the pool of each model that fits, in the order of their names."""
    return dict(zip(sorted(models), range(ROOT_POOL + 1, config.pools), strict=False))


def render_map(pools: dict[str, int], members: Membership) -> str:
    """Return the content of the map file: the pool of each model, and the one for calls that name none."""
    entries = dict(pools)
    if answering := [pool for model, pool in pools.items() if members.models[model]]:
        entries[ANY_MODEL] = min(answering)
    return "".join(f"{key} {pool}\n" for key, pool in entries.items())


def config_fingerprint(config: DoorConfig) -> str:
    """Hash of all that HAProxy can only change by a new start: sockets and members left out."""
    return json_fingerprint(_render(config.model_copy(update={"http_fd": 0, "grpc_fd": 0}), Membership(), {}, ""))


def render_config(config: DoorConfig, members: Membership, pools: dict[str, int]) -> str:
    """Return HAProxy's configuration with its present members, so that it answers from its first moment."""
    return _render(config, members, pools, config_fingerprint(config))


def _render(config: DoorConfig, members: Membership, pools: dict[str, int], description: str) -> str:
    models = {pool: members.models[model] for model, pool in pools.items()} | {ROOT_POOL: members.root}
    sections = [
        _global(config, description),
        _defaults(config),
        _metrics(config),
        _http_frontend(config),
        _grpc_frontend(config),
    ]
    for pool in range(config.pools):
        replicas = models.get(pool, ())[: config.slots]
        sections += [_http_backend(pool, replicas, config), _grpc_backend(pool, replicas, config)]
    return "\n\n".join(sections) + "\n"


def _global(config: DoorConfig, description: str) -> str:
    return f"""global
    stats socket {config.admin_socket} mode 600 level admin
    stats timeout 30s
    description "{description}"
    maxconn {config.max_connections}
    nbthread {config.threads}
    tune.bufsize 16384
    ssl-default-bind-options ssl-min-ver TLSv1.2"""


def _defaults(config: DoorConfig) -> str:
    no_answer = RequestError("request.no_answer")
    return f"""defaults
    mode http
    timeout connect 1s
    timeout check 2s
    timeout queue 5s
    timeout http-request {_ms(config.request_s)}
    timeout client {_ms(config.idle_body_s)}
    timeout http-keep-alive {_ms(config.keep_alive_s)}
    timeout server {_ms(config.answer_s)}
    balance leastconn
    http-reuse always
    option http-no-delay
    option abortonclose
    # A request that a replica's end leaves without a byte of an answer is sent once more, to another replica. That
    # needs the whole request in a buffer.
    option http-buffer-request
    option redispatch 1
    retries 1
    retry-on conn-failure empty-response
    {_http_error(503, RequestError("request.no_replica"))}
    {_http_error(504, no_answer)}
    {_http_error(502, no_answer)}
    {_http_error(408, RequestError("request.too_slow"))}"""


def _metrics(config: DoorConfig) -> str:
    return f"""frontend metrics
    bind 127.0.0.1:{config.metrics_port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request deny"""


def _http_frontend(config: DoorConfig) -> str:
    answers = "\n".join(f"    acl answers nbsrv(m{pool}) ge 1" for pool in range(ROOT_POOL + 1, config.pools))
    outside = RequestError("request.outside_v2")
    refuse = f"http-request return status {outside.status} {_json(error_body(outside))}"
    return f"""frontend http
    bind fd@{config.http_fd}{_tls(config, "h2,http/1.1")}
{answers}
    acl asks method GET HEAD
    {refuse} unless {{ path /v2 }} or {{ path_beg /v2/ }}
    http-request return status 200 {_json({"live": True})} if asks {{ path /v2/health/live }}
    http-request return status 200 {_json({"ready": True})} if asks {{ path /v2/health/ready }} answers
    http-request return status 503 {_json({"ready": False})} if asks {{ path /v2/health/ready }}
    http-request set-var(txn.pool) path,field(4,/),url_dec,map_str({config.map_file}) if {{ path_beg /v2/models/ }}
    use_backend m%[var(txn.pool)] if {{ var(txn.pool) -m found }}
    default_backend m{ROOT_POOL}"""


def _grpc_frontend(config: DoorConfig) -> str:
    # Field 1 of all three messages about a model is its name. The converter `ungrpc` needs the whole message in the
    # buffer; `protobuf` after the five bytes of gRPC's header needs no more than the name.
    name = "req.body,bytes(5),protobuf(1)"
    return f"""frontend grpc
    bind fd@{config.grpc_fd}{_tls(config, "h2") or " proto h2"}
    {_grpc_return(12, "unknown service")} unless {{ path_beg {GRPC_SERVICE} }}
    acl plain req.hdr(grpc-encoding) identity
    {_grpc_return(12, "compressed messages are not supported")} if {{ req.hdr(grpc-encoding) -m found }} !plain
    http-request wait-for-body time {_ms(config.request_s)} at-least 1024
    http-request set-var(txn.pool) {name},map_str({config.map_file})
    http-request set-var(txn.pool) str({ANY_MODEL}),map_str({config.map_file}) unless {{ var(txn.pool) -m found }}
    # Serve's replicas refuse an application that is not their own; the message says which one it is for.
    http-request del-header application
    {_grpc_return(14, "no model is served")} unless {{ var(txn.pool) -m found }}
    http-after-response set-header content-type application/grpc
    use_backend g%[var(txn.pool)]"""


def _http_backend(pool: int, replicas: tuple[Replica, ...], config: DoorConfig) -> str:
    lines = [
        f"backend m{pool}",
        "    option httpchk",
        "    http-check send meth GET uri /-/healthz",
        "    http-check expect status 200",
        f"    default-server {_CHECK} {_OBSERVE}",
    ]
    return "\n".join([*lines, *_servers((r.http for r in replicas), config.slots)])


def _grpc_backend(pool: int, replicas: tuple[Replica, ...], config: DoorConfig) -> str:
    lines = [f"backend g{pool}", "    default-server proto h2"]
    return "\n".join([*lines, *_servers((r.grpc for r in replicas), config.slots, f" track m{pool}/")])


def _servers(targets: Iterable[Target | None], slots: int, track: str = "") -> Iterator[str]:
    filled = [target or UNUSED for target in targets]
    for slot in range(slots):
        used = slot < len(filled)
        target = filled[slot] if used else UNUSED
        options = f"{track}r{slot}" if track else "" if used else " disabled"
        yield f"    server r{slot} {target.address}{options}"


def _tls(config: DoorConfig, protocols: str) -> str:
    return f" ssl crt {config.certificate_file} alpn {protocols}" if config.tls else ""


def _http_error(status: int, error: RequestError) -> str:
    return f"http-error status {status} {_json(error_body(error))}"


def _grpc_return(status: int, message: str) -> str:
    return f'http-request return status 200 hdr grpc-status {status} hdr grpc-message "{message}"'


def error_body(error: RequestError) -> dict[str, object]:
    """An error as callers get it."""
    return {"error": str(error), "code": error.code}


def _json(body: object) -> str:
    quoted = to_json(body).decode().replace("\\", "\\\\").replace('"', '\\"')
    return f'content-type application/json string "{quoted}"'


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
