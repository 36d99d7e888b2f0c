"""Many runs from one command: grids, searches, their folder and index, and the processes and clusters that run them."""
