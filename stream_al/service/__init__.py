"""The service: machines, a broker and one loop."""
