"""What a package elsewhere adds to everlong, one file each."""
