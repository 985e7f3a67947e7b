"""The network: gpt.py is the spine and is read first."""
