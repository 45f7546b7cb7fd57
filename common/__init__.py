"""Ground floor: settings, table contracts, the model and its encoding, evaluation, errors, shared parts of commands.

Every other room may import this one; it imports none of them.
"""
