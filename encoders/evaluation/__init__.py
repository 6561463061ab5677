"""How good an encoder is: suites of pictures with known truth, metrics, tables and a report with pictures.

    python -m encoders.evaluation --data DIR          or          design-dedup evaluate --data DIR

A suite says which gallery entries each query duplicates, which it must not be taken for, and which do not count. Suites
are made from the photo sets and from synthetic garments; anyone can add one as a folder with a CSV (`folder`). No torch
here, so the command runs where the service runs. Not for choosing thresholds: calibration has its own room, and only
its result is carried over to here.
"""
