"""A real Site under faults and changes that come at random, from a seed; a program, not a test."""
