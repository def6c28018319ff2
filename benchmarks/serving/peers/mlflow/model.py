"""The model as MLflow's pyfunc, "models from code": nothing is pickled."""

from __future__ import annotations

from typing import Any

import mlflow
from mlp import Mlp


class MlpModel(mlflow.pyfunc.PythonModel):
    """A data frame in, a list of scores out."""

    def load_context(self, context: Any) -> None:
        self._model = Mlp()

    def predict(self, context: Any, model_input: Any, params: dict[str, Any] | None = None) -> list[float]:
        return self._model.score(model_input.to_dict(orient="list")).tolist()


mlflow.models.set_model(MlpModel())
