"""The command line, the HTTP API, its client and the reports: they validate, call, reshape and show."""

import gc

# Records of long studies and imported modules are many, stay, and have no cycles. By Python's default the collector
# goes through them after every 700 new ones, which is a third of the time of `afp status` at 10,000 trials.
gc.set_threshold(50_000, 10, 10)
