"""One self-contained page about a run or a sweep: read its folder, describe blocks, render them with their own script."""
