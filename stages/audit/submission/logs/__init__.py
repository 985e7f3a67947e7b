"""A grammar of the log lines that the contest's scripts print."""
