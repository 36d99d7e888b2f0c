"""Pure functions on arrays and tables: what the tasks compute."""
