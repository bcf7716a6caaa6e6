"""The stages of a run, each readable from top to bottom."""
