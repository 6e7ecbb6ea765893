"""Measures a pair on the devices at hand; what it finds is a `profiles.profile.Profile`."""
