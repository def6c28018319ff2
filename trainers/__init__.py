"""Training, tuning, evaluation, the gate, and export of models."""
