"""Secure aggregation: sites' vectors are summed and nobody sees one of them."""
