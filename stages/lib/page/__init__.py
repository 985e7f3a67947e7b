"""The pages that people read (the report, the comparison, the certificates): rendering of templates, and the style that the pages share.

A template gets its values by name and may use the files of this folder: `page.html.j2` is the frame of every page, `parts.html.j2` has the
parts that several pages use, and `style.css` is the only style sheet. A page is one file without script, font or network. Every value is
escaped where it is written, so text from a file or from params.yaml is never taken for markup. A name without a value is an error.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent
WHOLE = 16  # letters of a name that is never broken


def render(template: Path, **values: object) -> str:
    """The text of a template, which may include and extend templates beside it and in this folder. Equal values give equal text."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, FOLDER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"breakable": breakable, "words": words}
    return environment.get_template(template.name).render(values)


def breakable(text: str) -> Markup:
    """The text with marks where a long name may be broken into lines; a name that fits a narrow column is left whole."""
    return Markup(" ").join(_marked(word) if len(word) > WHOLE else escape(word) for word in str(text).split(" "))


def _marked(word: str) -> Markup:
    for sign in "_/.":
        word = escape(word).replace(sign, Markup(f"{sign}<wbr>"))
    return escape(word)


def words(name: str) -> str:
    """A name in the code, as words for people."""
    return name.replace("_", " ")
