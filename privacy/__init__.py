"""Secure aggregation, differential privacy and the budget ledger: pure protocol and mathematics.

Nothing here knows Flower, a file or a network.
"""
