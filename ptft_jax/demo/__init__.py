"""The text of the demo: documentation of the installed packages."""
