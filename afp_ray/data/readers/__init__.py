"""Readers of the file layouts that corpora come in."""
