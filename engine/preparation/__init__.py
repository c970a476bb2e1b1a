"""May this render be done, how, and what will it take? Nothing is written here."""
