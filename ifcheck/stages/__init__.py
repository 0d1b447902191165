"""The stages: artifacts in, artifact out; they never print."""
