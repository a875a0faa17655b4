"""Reports: pages for a person that stand beside the files they are about."""
