"""Texts on their way to a network, and the networks that read or write them."""
