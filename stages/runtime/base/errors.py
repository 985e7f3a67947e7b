"""What a file that was made elsewhere can be: damaged, or not one of ours. Apart, so that nothing depends on the container for a name."""


class ArtifactError(ValueError):
    """The blob is not one of ours, is damaged, or asks for more than it may."""
