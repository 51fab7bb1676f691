"""Files, streams, records, and where each output came from."""
