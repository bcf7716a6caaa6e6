"""Programs that run on other machines, fed to the Python there through ssh. They use the standard library only."""
