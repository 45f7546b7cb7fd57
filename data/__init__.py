"""From raw CSV files to the training table: import and validation, places, pairs, labels, partition by office."""
