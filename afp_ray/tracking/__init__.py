"""Projections of the ledger into MLflow: never the truth, always rebuildable."""
