"""The job: configuration, the ask/tell study over an append-only log, strategies, phases, exports, report, the command
line.
"""
