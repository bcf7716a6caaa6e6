"""The DDP learner group and the weight publisher."""
