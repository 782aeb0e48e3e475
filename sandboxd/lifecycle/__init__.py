"""One env's life as plain data: records, events, effects, and the table that joins them. Pure: time is an argument."""
