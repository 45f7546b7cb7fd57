"""A site: its Flower ClientApp, its private training table, local training, ranking. It knows no other site's data."""
