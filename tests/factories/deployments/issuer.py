"""A token issuer with its own keys, and a server that publishes them."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

NAME = "https://issuer.example"
AUDIENCE = "rayloop"


class SigningKey:
    """A private key with an id."""

    def __init__(self, id: str, algorithm: str = "ES256", bits: int = 2048) -> None:
        self.id, self.algorithm = id, algorithm
        self.private: Any
        if algorithm == "ES256":
            self.private = ec.generate_private_key(ec.SECP256R1())
            public = ECAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        else:
            self.private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
            public = RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        self.public: dict[str, Any] = dict(public) | {"kid": id, "use": "sig", "alg": algorithm}

    def token(self, **change: object) -> str:
        """A token for model trips that is good for a minute; a claim that is None is left out."""
        headers = {"kid": self.id}
        return jwt.encode(claims(**change), self.private, algorithm=self.algorithm, headers=headers)


def claims(**change: object) -> dict[str, Any]:
    now = int(time.time())
    good = {"iss": NAME, "aud": AUDIENCE, "sub": "anna", "exp": now + 60, "models": ["trips"], "scope": "openid infer"}
    return {name: value for name, value in (good | change).items() if value is not None}


def jwks(*keys: SigningKey) -> bytes:
    return json.dumps({"keys": [key.public for key in keys]}).encode()


class Publisher:
    """Serves a JWKS over HTTP on this machine, and counts the requests."""

    def __init__(self, *keys: SigningKey, port: int = 0) -> None:
        self.body, self.status, self.requests = jwks(*keys), 200, 0
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.requests += 1
                self.send_response(publisher.status)
                self.end_headers()
                self.wfile.write(publisher.body)

            def log_message(self, format: str, *args: object) -> None:
                """Not in a test's output."""

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
