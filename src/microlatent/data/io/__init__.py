"""Files of the world by format, read with care: they come from other people."""
