"""What one kind of data alone has: a folder each, which registers its data and tasks and which no other system imports."""
