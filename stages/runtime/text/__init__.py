"""From text to tokens and back, and the compressor of text files that an artifact is."""
