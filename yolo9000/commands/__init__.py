"""The commands of the command line, a module each; `cli.py` puts them together.

Torch and other heavy packages are imported inside the commands, so that `--help` is quick.
"""
