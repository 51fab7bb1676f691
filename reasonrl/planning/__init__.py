"""What a command line will cost, before it runs: shapes and devices, then stages. Never imports torch."""
