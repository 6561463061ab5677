"""Ways to bring catalogue photographs and generated designs into one space, side by side on the same frozen features.

One file a method (`plain`, `coral`, `adversarial`, `siamese`), each trained by `python -m encoders.methods NAME` and
exported to the service's contract; `compare` asks whether adaptation gains anything. What they learn here comes from
photographs that may not train shipped weights, so nothing of it goes into the shipped model.
"""
