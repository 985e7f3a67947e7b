"""Read the source code of submissions without executing it: unpack it, parse it, and follow the validation tokens through it."""
