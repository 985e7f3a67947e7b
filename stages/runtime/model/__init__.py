"""The network. Read gpt.py first."""
