"""Speed and quality, each a script that prints a table."""
