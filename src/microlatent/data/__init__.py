"""What models are trained on: raw files, stores, normalisation, splits, batches."""
