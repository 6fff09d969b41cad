"""Curation: media rows out of archive lines, samples, groups and splits."""
