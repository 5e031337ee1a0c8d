"""The verbs, written once over ``core/services``: local, remote and embedded engines run the same code.

One module for each verb, each an async function that takes the services first. What does not belong here: gRPC, files
of the engine, output for people. Modules import little when loaded: a command pays for what its verb uses.
"""
