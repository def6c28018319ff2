"""BentoML by its own documentation, one worker."""

from __future__ import annotations

from typing import Any

import bentoml
from mlp import Mlp


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class MlpService:
    """One row's columns in, its score out."""

    def __init__(self) -> None:
        self._model = Mlp()

    @bentoml.api
    async def predict(self, record: dict[str, Any]) -> dict[str, float]:
        return {"score": self._model.score_one(record)}
