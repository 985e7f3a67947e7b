"""The error for a file that is damaged or not an artifact. It is in its own module, so that its users need not import the container."""


class ArtifactError(ValueError):
    """The blob is not a Caddie blob, is damaged, or exceeds a limit."""
