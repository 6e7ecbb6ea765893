"""The maths of speculation, free of meshes: sampling, verification rules, drafters."""
