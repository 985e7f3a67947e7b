"""Shards of tokens and the windows in which they are scored."""
