"""The command line, the controller it starts, and the live view."""
