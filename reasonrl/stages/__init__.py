"""One file for each subcommand: its flags, its help with examples, and what it does with the parts below."""
