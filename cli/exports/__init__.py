"""What a run measured, for other programs: followers of its events, outside of the training loop."""
