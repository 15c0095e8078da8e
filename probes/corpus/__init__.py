"""Texts to measure on, and the token batches made of them.

`sources` opens a corpus from a name, a file, a folder or the hub; `readers` knows the file formats;
`rows` lays documents out in rows; `batching` makes batches of them, and `token_batch` says what a
batch is.
"""
