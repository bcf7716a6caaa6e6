"""Rewards, advantages, the GRPO objective and the staleness-bounded buffer."""
