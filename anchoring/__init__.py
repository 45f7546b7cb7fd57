"""Merkle log, checkpoints, proofs and record receipts, pure where they can be.

Nothing here knows Flower or a model. The room has no content in this version.
"""
