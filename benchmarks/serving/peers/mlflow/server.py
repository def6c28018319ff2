"""``mlflow models serve`` of a pyfunc model, one worker."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import mlflow

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp()) / "model"
    mlflow.pyfunc.save_model(folder, python_model=str(Path(__file__).with_name("model.py")), pip_requirements=[])
    serve = ["mlflow", "models", "serve", "-m", str(folder), "-h", "127.0.0.1", "-p", os.environ["PORT"], "-w", "1"]
    os.execvp("mlflow", [*serve, "--env-manager", "local"])
