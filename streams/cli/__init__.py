"""The `design-dedup` command, one file per family of commands."""
