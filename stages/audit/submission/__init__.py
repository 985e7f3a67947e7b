"""Audit of published submission folders from their files alone: nothing in them is executed, no model is run."""
