"""The network, simulated: ARC and header services as processes, with true protocols and scripted faults.

`ops.simulate.client.spawn` starts one as a child process; `beefline simulate` runs one in the foreground. What they
know is the chain in a folder (`ops.instruments.chain`) and the few mainnet blocks of `ops.instruments.payloads`.
They judge with code of their own: an ARC that took our own verifier's word would prove nothing.
"""
