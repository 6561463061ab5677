"""The running service: generated designs and catalogue updates in, verdicts out. Folders are the way of the data."""
