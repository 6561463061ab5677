"""The bench: what the service does on this machine, one run each. It prints figures and asserts nothing about time.

`python -m tests.bench [--quick] [--json FILE]`. Each room measures one family of figures; plain.py holds the loops
that the service is compared with.
"""
