"""What ships inside the 16,000,000 bytes: the model, the decoder, the evaluators. Imports itself, torch, numpy, and what decoding needs."""
