"""The pages that people read (the report, the comparison, the certificates): how a template becomes text, and the look that they share.

A template gets its values by name and may use what lies in this folder: `page.html.j2` is the frame of every page, `parts.html.j2` has
the parts that several use, `style.css` is the one style sheet. A page is one file without script, font or network. Every value is
escaped where it is written, so that nothing from a file or from params.yaml is taken for markup; a name without a value is an error.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

FOLDER = Path(__file__).parent


def render(template: Path, **values: object) -> str:
    """The text of a template, which may include and extend those beside it and those of this folder. Equal values give equal text."""
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
    """The text with places where a long name may be broken."""
    for sign in "_/.":
        text = escape(text).replace(sign, Markup(f"{sign}<wbr>"))
    return escape(text)


def words(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")
