"""The network: gpt.py is the spine and is read first; features/ has what can be switched on."""
