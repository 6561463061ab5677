"""Stage 2, light and serial: a fold over `dedup.log` that says `accept` or `duplicate`."""
