"""What keeps a broker from being started or used, said in plain words."""


class BrokerError(Exception):
    """The message is for the person who called: what is wrong, and what to do about it. No traceback is shown."""
