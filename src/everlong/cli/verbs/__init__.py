"""What each command takes on the command line, one file each; the work is done by the module of the same name above."""
