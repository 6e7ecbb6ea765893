"""Files that nobody should trust: valid ones, mutated by what knows their structure, and their readers."""
