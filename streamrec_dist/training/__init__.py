"""What one learner rank does: losses, optimiser, steps."""
