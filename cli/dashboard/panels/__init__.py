"""The panels of the live view: each draws one thing about a run."""
