"""Ablation tables and the HTML report: they format numbers and compute none."""
