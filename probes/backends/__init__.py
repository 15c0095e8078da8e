"""Backends: what runs a model and reaches its hook points; each is an `Engine`."""
