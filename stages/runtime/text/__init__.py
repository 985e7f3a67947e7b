"""From text to tokens and back, and the compression of files with an artifact."""
