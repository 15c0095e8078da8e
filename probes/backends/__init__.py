"""Backends: what runs a model and reaches its hook points.

Each is an `Engine` (`probes.backends.engine`) in a module of its own; `probes.hooked_model` is the
same on top of all of them. TransformerLens and nnsight are imported only when their backend is
asked for.
"""
