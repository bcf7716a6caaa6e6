"""Reading interaction data and cutting it into histories, splits and batches."""
