"""The commands of `gbif-platform`, one file for each group of them."""
