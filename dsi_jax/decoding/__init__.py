"""The maths of speculation, free of meshes: sampling and verification rules."""
