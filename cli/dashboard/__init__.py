"""The live view of a run: events in, a picture out."""
