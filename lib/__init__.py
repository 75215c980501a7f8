"""LiverLoop: everything that does the work. Read `docs/architecture.md` for who may import whom."""
