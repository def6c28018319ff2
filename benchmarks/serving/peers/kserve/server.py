"""KServe's Python server by its own documentation, one worker, Open Inference Protocol v2 over REST."""

from __future__ import annotations

import logging
import os
from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from mlp import Mlp


class MlpModel(Model):
    """Tensors in, one tensor of scores out."""

    def load(self) -> bool:
        self._model = Mlp()
        self.ready = True
        return self.ready

    async def predict(
        self, payload: InferRequest, headers: dict[str, str] | None = None, **context: Any
    ) -> InferResponse:
        scores = self._model.score({tensor.name: tensor.data for tensor in payload.inputs})
        output = InferOutput(name="score", shape=[len(scores)], datatype="FP32", data=scores.tolist())
        return InferResponse(response_id=payload.id or "", model_name=self.name, infer_outputs=[output])


if __name__ == "__main__":
    # By default it logs three lines per request; no other server here does.
    for name in ("kserve.trace", "uvicorn.access"):
        logging.getLogger(name).addFilter(lambda record: False)
    model = MlpModel("mlp")
    model.load()
    server = ModelServer(
        http_port=int(os.environ["PORT"]),
        workers=1,
        enable_grpc=False,
        enable_latency_logging=False,
        access_log_format=None,
    )
    server.start([model])
