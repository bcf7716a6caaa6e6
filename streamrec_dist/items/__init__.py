"""From item texts to unique semantic ids."""
