"""The network, simulated: broadcast endpoints and header services as processes, true protocols, scripted faults.

`ops.simulate.client.spawn` starts one as a child process; `beefline simulate` runs one in the foreground. What they
know is the chain in a folder (`ops.instruments.chain`) and the few mainnet blocks of `ops.instruments.payloads`.
They judge with code of their own: an endpoint that took our own verifier's word would prove nothing.
"""
