"""How an image becomes a vector: preprocessing shared with the service, synthetic images, training, export."""
