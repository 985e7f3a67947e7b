"""The rules that a folder is compared with, one file for each kind of question."""
