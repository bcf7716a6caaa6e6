"""Ray actors that generate and score."""
