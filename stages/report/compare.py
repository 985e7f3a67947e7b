"""x"""


def run(argv):
    raise SystemExit
