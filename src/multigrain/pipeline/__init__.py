"""One run: its stages, its folder, the check before it, and the functions behind the commands."""
