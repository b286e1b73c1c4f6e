"""Figures against the peers, measured in one run each."""
