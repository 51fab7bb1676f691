"""Problems: where they come from."""
