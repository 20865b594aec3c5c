from importlib.resources import files


def resource(name: str) -> str:
    """Return a file of this package as text."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")
