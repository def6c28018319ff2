"""The base layer: values, settings, errors, and the only access to Ray jobs, Iceberg and MLflow."""
