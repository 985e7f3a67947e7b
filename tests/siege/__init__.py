"""The referee under siege: artifacts and files that lie, each packed, evaluated and audited as any other.

    packed/handed, sampling, process      evaluators, one a file; packed/shared is what they import
    packed/honest                         evaluators of other kinds that must not be accused
    memory.py, forgeries.py               cheats that are made from val; cheats with files

A cheat passes if it is certified legal with a limit X below the honest score, beyond what the certificate says that code can hold of val.
"""
