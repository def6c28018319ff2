"""HAProxy's rules by which a share of a model's keys goes to the second cluster. Pure.

A key's position is a hash of it, so that all doors agree, and a key that has moved stays while the share grows. A
cluster without a healthy replica of the model leaves its keys to the other one.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster.door.moves import CLUSTER_HEADER, FIRST, PARTS, RESERVED, SECOND, second_key, share_key

HTTP_KEYS = ("req.fhdr(x-rayloop-key)", "req.body,json_query('$.id')", "req.fhdr(x-request-id)")
"""Where the key of a request is, in order: as in the traffic split of rollouts."""
# Field 3 of ModelInferRequest is its id.
GRPC_KEYS = ("req.fhdr(x-rayloop-key)", "req.body,bytes(5),protobuf(3)", "req.fhdr(request_id)")


def pool_rule(map_file: str) -> str:
    """Return the rule that sets ``txn.pool`` to the first cluster's pool of the model ``txn.model``."""
    reserved = " ".join(RESERVED)
    return (
        f"http-request set-var(txn.pool) var(txn.model),map_str({map_file})"
        f" if {{ var(txn.model) -m found }} !{{ var(txn.model) -m beg {reserved} }}"
    )


def move_rules(backend: str, map_file: str, keys: Sequence[str]) -> str:
    """Return the rules that replace ``txn.pool`` where the second cluster must answer.

    Args:
        backend: What the names of the frontend's backends begin with.
        map_file: Name of the door's map.
        keys: Samples that may hold the request's key, in order; a request without any gets a random one.
    """
    set_key = "\n    ".join(
        f"http-request set-var(txn.key) {key} if moving !{{ var(txn.key) -m len ge 1 }}" for key in (*keys, "uuid")
    )
    pinned = f"req.fhdr({CLUSTER_HEADER})"
    return f"""http-request set-var(txn.share) str({share_key("")}),concat(,txn.model),map_str_int({map_file})
    http-request set-var(txn.second) str({second_key("")}),concat(,txn.model),map_str({map_file})
    acl moving var(txn.share) -m found
    acl first_answers str({backend}),concat(,txn.pool),nbsrv ge 1
    acl second_answers str({backend}),concat(,txn.second),nbsrv ge 1
    {set_key}
    http-request set-var(txn.distance) var(txn.key),xxh32,mod({PARTS}),sub(txn.share) if moving
    http-request set-var(txn.distance) int(-1) if moving !first_answers {{ var(txn.share) -m int gt 0 }}
    http-request set-var(txn.distance) int(-1) if moving {{ {pinned} {SECOND} }}
    http-request set-var(txn.distance) int(0) if moving {{ {pinned} {FIRST} }}
    http-request set-var(txn.cluster) str({FIRST}) if moving
    http-request set-var(txn.cluster) str({SECOND}) if moving second_answers {{ var(txn.distance) -m int lt 0 }}
    http-request set-var(txn.pool) var(txn.second) if {{ var(txn.cluster) -m str {SECOND} }}
    http-after-response set-header {CLUSTER_HEADER} %[var(txn.cluster)] if {{ var(txn.cluster) -m found }}"""
