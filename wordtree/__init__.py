"""The WordTree: a class hierarchy over WordNet (or any taxonomy), built, read, written and drawn without torch."""
