"""The network: read gpt.py first, it builds and runs the model; features/ has the parts that can be switched on."""
