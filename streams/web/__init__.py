"""HTTP on the worker: health, metrics, the check and verdict API."""
