"""Ground floor: settings, table contracts, the model and its encoding, evaluation, errors, the command line's shared parts.

Every other room may import this one; it imports none of them.
"""
