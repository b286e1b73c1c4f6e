"""An MLflow database without a run, made once: making one takes seconds."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be copied as `mlflow.db` beside the studies."""
    import afp_ray.tracking.projector  # noqa: F401, I001
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("schema") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file
