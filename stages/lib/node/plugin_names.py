"""The type of a parameter that names a plug-in: `Annotated[str, PluginName("stages.lib.tokens.loaders")]`."""

from annotated_types import Predicate

from stages.runtime.base import plugin


class PluginName(Predicate):
    """The name of a plug-in: a file of a package, or one of `others`."""

    def __init__(self, package: str, *others: str):
        super().__init__(lambda name: name in self.names())
        object.__setattr__(self, "package", package)
        object.__setattr__(self, "others", others)

    def names(self) -> list[str]:
        return [*self.others, *plugin.names_in(self.package)]
