"""The one room for the disk: run folder, checkpoints, replay files, states of environments.

It knows the package's nouns alone: loop, replay and environments come as arguments.
"""
