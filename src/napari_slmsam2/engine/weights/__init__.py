"""Files of weights: where they are, what is in them, how they are downloaded and loaded."""
