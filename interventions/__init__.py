"""Change a model: by a hook that comes off again, or by a weight patch. May import probes."""
