"""The coordinator: its Flower ServerApp, strategies, round history. It never sees a candidate."""
