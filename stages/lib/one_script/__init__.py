"""The run as one counted script: one module of all that it needs (flatten), without what it does not (fold, prune), packed (wrap)."""
