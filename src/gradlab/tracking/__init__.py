"""Tracking: a run's folder and journal, and the process that ships them to MLflow."""
