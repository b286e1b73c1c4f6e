"""The command line, the HTTP API, its client and the reports: they validate, call, reshape and show."""
