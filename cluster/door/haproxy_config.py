"""HAProxy's configuration for the door, rendered from values. Pure.

Backends are pools of slots: backend ``m<pool>`` holds the HTTP ports of a model's replicas, ``g<pool>`` their gRPC
ports, slot by slot. Which pool a model has is in a map file. Slots and map change through the admin socket, so that
neither a replica nor a model that comes or goes reloads anything. Pool 0 is the root application's. A model that moves
to a second cluster has a pool for each cluster, and its share is in the map too.

With peers, the second half of a pool's slots is for replicas of other hosts: they connect to a port of that host's
door, with TLS. What comes there goes to the replica that the port stands for, and never to another host: requests
cannot go round in circles.
"""

from __future__ import annotations

from pydantic_core import to_json

from cluster.door.config import ROOT_POOL, UNUSED, DoorConfig, PeerPorts
from cluster.door.membership import ANY_MODEL, Membership, Replica
from cluster.door.move_rules import GRPC_KEYS, HTTP_KEYS, move_rules, pool_rule
from cluster.door.status import render_status
from cluster.errors import RequestError
from cluster.fingerprint import json_fingerprint

GRPC_SERVICE = "/inference.GRPCInferenceService/"
# A replica that refuses connections, or says that it leaves, is out within a second or so; one that is too busy to
# answer its check gets six seconds, because all of a busy machine would be out at once. ``inter`` is also what a check
# has to connect: between doors, a handshake may have to wait while one of them replaces its certificate.
_CHECK = "check inter 500ms fastinter 250ms downinter 250ms fall 3 rise 1"
_PEER_CHECK = "inter 1s"
# What has been sent to a host that is gone fails after that, and is sent once more, to another one. HAProxy ignores it
# in `default-server`.
_LOST = "tcp-ut 2s"
_OBSERVE = "observe layer4 error-limit 3 on-error mark-down"


def config_fingerprint(config: DoorConfig) -> str:
    """Hash of all that HAProxy can only change by a new start: sockets and members left out."""
    return json_fingerprint(_render(config.model_copy(update={"http_fd": 0, "grpc_fd": 0}), Membership(), {}, ""))


def render_config(config: DoorConfig, members: Membership, pools: dict[str, int]) -> str:
    """Return HAProxy's configuration with its present members, so that it answers from its first moment."""
    return _render(config, members, pools, config_fingerprint(config))


def _render(config: DoorConfig, members: Membership, pools: dict[str, int], description: str) -> str:
    replicas = members.by_key
    models = {pool: replicas[key] for key, pool in pools.items()} | {ROOT_POOL: members.root}
    sections = [
        _global(config, description),
        _defaults(config),
        _metrics(config),
        _http_frontend(config),
        _grpc_frontend(config),
    ]
    if config.peers:
        sections += _peer_sections(config, config.peers)
    for pool in range(config.pools):
        slots = _fill_slots(models.get(pool, ()), config)
        sections += [_http_backend(pool, slots, config), _grpc_backend(pool, slots, config)]
    return "\n\n".join(sections) + "\n"


def _fill_slots(replicas: tuple[Replica, ...], config: DoorConfig) -> list[Replica | None]:
    """The replica of each slot of a pool, or None."""
    slots: list[Replica | None] = []
    for peer in (False, True) if config.peers else (False,):
        part = [replica for replica in replicas if replica.peer == peer][: config.slots]
        slots += [*part, *[None] * (config.slots - len(part))]
    return slots


def _global(config: DoorConfig, description: str) -> str:
    # With peers, as many connections again: callers cannot use up what other doors need.
    connections = config.max_connections * (2 if config.peers else 1)
    return f"""global
    stats socket {config.admin_socket} mode 600 level admin
    stats timeout 30s
    description "{description}"
    maxconn {connections}
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
    # A host that ends while its replica computes an answer would say nothing any more.
    option srvtcpka
    srvtcpka-idle 1s
    srvtcpka-intvl 1s
    # A request that a replica's end leaves without a byte of an answer, or that a replica has no room or no features
    # for (503), is sent once more, to another replica. That needs the whole request in a buffer.
    option http-buffer-request
    option redispatch 1
    retries 1
    retry-on conn-failure empty-response 503
    {_http_error(503, RequestError("request.no_replica"))}
    {_http_error(504, no_answer)}
    {_http_error(502, no_answer)}
    {_http_error(408, RequestError("request.too_slow"))}"""


def _metrics(config: DoorConfig) -> str:
    status = _quoted(render_status(config.status_file))
    return f"""frontend metrics
    bind 127.0.0.1:{config.metrics_port}
    http-request use-service prometheus-exporter if {{ path /metrics }}
    http-request return status 200 content-type "text/plain; version=0.0.4" lf-string {status} if {{ path /status }}
    http-request deny"""


def _http_frontend(config: DoorConfig) -> str:
    answers = "\n".join(f"    acl answers nbsrv(m{pool}) ge 1" for pool in range(ROOT_POOL + 1, config.pools))
    outside = RequestError("request.outside_v2")
    refuse = f"http-request return status {outside.status} {_json(error_body(outside))}"
    return f"""frontend http
    bind fd@{config.http_fd}{_tls(config, "h2,http/1.1")}{_frontend_limit(config, 3)}
{answers}
    acl asks method GET HEAD
    {refuse} unless {{ path /v2 }} or {{ path_beg /v2/ }}
    http-request return status 200 {_json({"live": True})} if asks {{ path /v2/health/live }}
    http-request return status 200 {_json({"ready": True})} if asks {{ path /v2/health/ready }} answers
    http-request return status 503 {_json({"ready": False})} if asks {{ path /v2/health/ready }}
    http-request set-var(txn.model) path,field(4,/),url_dec if {{ path_beg /v2/models/ }}
    {pool_rule(str(config.map_file))}
    {move_rules("m", str(config.map_file), HTTP_KEYS)}
    use_backend m%[var(txn.pool)] if {{ var(txn.pool) -m found }}
    default_backend m{ROOT_POOL}"""


def _grpc_frontend(config: DoorConfig) -> str:
    # Field 1 of all three messages about a model is its name. The converter `ungrpc` needs the whole message in the
    # buffer; `protobuf` after the five bytes of gRPC's header needs no more than the name.
    name = "req.body,bytes(5),protobuf(1)"
    return f"""frontend grpc
    bind fd@{config.grpc_fd}{_tls(config, "h2") or " proto h2"}{_frontend_limit(config, 1)}
    {_grpc_return(12, "unknown service")} unless {{ path_beg {GRPC_SERVICE} }}
    acl plain req.hdr(grpc-encoding) identity
    {_grpc_return(12, "compressed messages are not supported")} if {{ req.hdr(grpc-encoding) -m found }} !plain
    http-request wait-for-body time {_ms(config.request_s)} at-least 1024
    http-request set-var(txn.model) {name}
    {pool_rule(str(config.map_file))}
    {move_rules("g", str(config.map_file), GRPC_KEYS)}
    http-request set-var(txn.pool) str({ANY_MODEL}),map_str({config.map_file}) unless {{ var(txn.pool) -m found }}
    # Serve's replicas refuse an application that is not their own; the message says which one it is for.
    http-request del-header application
    {_grpc_return(14, "no model is served")} unless {{ var(txn.pool) -m found }}
    http-after-response set-header content-type application/grpc
    use_backend g%[var(txn.pool)]"""


def _frontend_limit(config: DoorConfig, quarters: int) -> str:
    """Share of the connections of callers: those of gRPC carry many calls each."""
    return f"\n    maxconn {config.max_connections * quarters // 4}" if config.peers else ""


def _peer_sections(config: DoorConfig, peers: PeerPorts) -> list[str]:
    http, grpc = peers.first, peers.first + peers.count
    return [
        _peer_proxy("peer_http", http, "http/1.1", "", config, peers),
        _peer_proxy("peer_grpc", grpc, "h2", " proto h2", config, peers),
    ]


def _peer_proxy(name: str, first: int, alpn: str, proto: str, config: DoorConfig, peers: PeerPorts) -> str:
    """A frontend for doors and its backend in one. Nothing but an answer of the replica's is an answer: without one,
    the connection ends, and the door that sent the request sends it to another replica.
    """
    bind = f"[{peers.host}]" if ":" in peers.host else peers.host
    silent = "\n".join(f"    errorfile {status} /dev/null" for status in (408, 502, 503, 504))
    tls = f"ssl {_peer_files(config)} alpn {alpn}"
    return f"""listen {name}
    bind {bind}:{first}-{first + peers.count - 1} {tls}
    maxconn {config.max_connections // 2}
    no option http-buffer-request
    retries 0
    # The door that sent the request gives up first.
    timeout server {_ms(config.answer_s + 5.0)}
{silent}
    http-request set-dst str(127.0.0.1)
    http-request set-dst-port dst_port,sub({peers.first - peers.first_of_replicas})
    server replica 0.0.0.0:0{proto}"""


def _peer_files(config: DoorConfig, part: str = "") -> str:
    certificate, authority = config.peer_certificate_file(part), config.peer_authority_file(part)
    return f"crt {certificate} ca-file {authority} verify required"


def _http_backend(pool: int, slots: list[Replica | None], config: DoorConfig) -> str:
    lines = [
        f"backend m{pool}",
        "    option httpchk",
        "    http-check send meth GET uri /-/healthz",
        "    http-check expect status 200",
        f"    default-server {_CHECK}",
    ]
    for number, replica in enumerate(slots):
        peer = f" {_PEER_CHECK}{_peer_options(pool, config)}" if number >= config.slots else f" {_OBSERVE}"
        target, disabled = (replica.http, "") if replica else (UNUSED, " disabled")
        lines.append(f"    server r{number} {target.address} {_LOST}{peer}{disabled}")
    return "\n".join(lines)


def _grpc_backend(pool: int, slots: list[Replica | None], config: DoorConfig) -> str:
    lines = [f"backend g{pool}", "    default-server proto h2"]
    for number, replica in enumerate(slots):
        peer = f"{_peer_options(pool, config)} alpn h2" if number >= config.slots else ""
        target = (replica.grpc if replica else None) or UNUSED
        lines.append(f"    server r{number} {target.address} {_LOST}{peer} track m{pool}/r{number}")
    return "\n".join(lines)


def _peer_options(pool: int, config: DoorConfig) -> str:
    return f" ssl {_peer_files(config, str(pool))}"


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
    return f"content-type application/json string {_quoted(to_json(body).decode())}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
