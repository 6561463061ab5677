"""Generators of hostile files and events. Nothing here is stored as binary: every case is made where it is used."""
