"""Where stored blocks lie: in host memory and on the disk."""
