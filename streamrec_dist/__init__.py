"""The recommender itself: data, items, model, decoding, stages and rewards, in plain torch and Arrow."""

__version__ = "0.1.0"
