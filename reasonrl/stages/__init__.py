"""One file for each subcommand: its help with examples, and what it does with the parts below."""
