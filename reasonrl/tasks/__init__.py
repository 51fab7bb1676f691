"""Problems: where they come from, how they are put to a model, how an answer is read. Never imports torch."""
