"""How the shipped encoder is trained: pictures of one thing and near misses of it, the network, the loop.

Not for the methods it is compared with (`encoders.methods`), nor for measuring (`encoders.evaluation`).
"""
