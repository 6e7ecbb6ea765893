"""Compiles the programs of a pair ahead of time, for TPUs that are not there, and reads what the compiler made."""
