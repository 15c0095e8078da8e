"""What the papers report, as data, and whether results agree with it."""
