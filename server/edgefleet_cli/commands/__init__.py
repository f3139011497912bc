"""The commands, one noun a module. A module declares typer commands and hands the work to its own functions."""
