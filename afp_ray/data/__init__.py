"""Rows of text in several languages, mixed and turned into token batches."""
