"""Large Sites: what a device costs, and how long news takes."""
