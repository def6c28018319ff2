"""The ground: contracts, settings, errors, and the doors to Ray, Iceberg and MLflow."""
