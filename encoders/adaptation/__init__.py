"""A new encoder version from somebody's own two folders, without labels: which pictures train and which measure, the
training, the figures of old and new, and whether the new one is kept.

Not for training the shipped encoder (`encoders.training`), nor for choosing thresholds (`encoders.calibration`). Torch
is needed by `run`, `candidate` and `vectors` only.
"""
