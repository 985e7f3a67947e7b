"""Shards of tokens, and the windows in which tokens are scored."""
