"""Merkle log, checkpoints, witnesses, proofs and record receipts, pure where they can be.

Nothing here knows Flower or a model.
"""
