"""The feature layer: definitions, the point-in-time join, the online store, profiles."""
