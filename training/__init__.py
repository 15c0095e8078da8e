"""Train a model and record it: data, schedules, the loop. May import probes and interventions."""
