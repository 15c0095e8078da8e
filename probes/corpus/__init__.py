"""Texts to measure on (`sources`, from `files` and `readers`), and token batches made of them."""
