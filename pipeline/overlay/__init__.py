"""Overlay topics (BRC-22): the rules that admit outputs."""
