"""Novelty: how new a corpus is to a model."""
