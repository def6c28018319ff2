"""MLServer by its own documentation: a custom runtime, in the server's own process."""

from __future__ import annotations

from mlp import Mlp
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class MlpRuntime(MLModel):
    """Tensors in, one tensor of scores out."""

    async def load(self) -> bool:
        self._model = Mlp()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        scores = self._model.score({tensor.name: tensor.data.root for tensor in payload.inputs})
        output = ResponseOutput(name="score", shape=[len(scores)], datatype="FP32", data=scores.tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
