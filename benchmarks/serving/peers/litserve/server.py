"""LitServe by its own documentation, one worker."""

import os
from typing import Any

import litserve as ls
from mlp import Mlp


class MlpApi(ls.LitAPI):
    """One JSON object in, its score out."""

    def setup(self, device: str) -> None:
        self._model = Mlp()

    # Without an annotation LitServe hands over the JSON body; with one it would look for a query parameter.
    def decode_request(self, request, **context: Any):
        return request

    def predict(self, x: dict[str, Any], **context: Any) -> float:
        return self._model.score_one(x)

    def encode_response(self, output: float, **context: Any) -> dict[str, float]:
        return {"score": output}


if __name__ == "__main__":
    server = ls.LitServer(MlpApi(), accelerator="cpu", workers_per_device=1, fast_queue=True)
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning", generate_client_file=False)
