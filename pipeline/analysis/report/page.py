"""Shared parts of all HTML pages: template engine, style, and the plotting library, included in the file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

PACKAGE = "pipeline.analysis.report"


def environment(package: str = PACKAGE) -> Environment:
    """Templates of `package`; those of the report (`figure.html`) can be included."""
    loader = ChoiceLoader([PackageLoader(name, ".") for name in dict.fromkeys((package, PACKAGE))])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def assets() -> dict[str, Any]:
    """Returns the parts of a self-contained page: `style`, `script` (which draws the plots) and `vega`."""
    return {
        "style": Markup(_asset("style.css")),
        "script": Markup(_asset("page.js")),
        "vega": Markup(_vega()),
    }


def _asset(name: str) -> str:
    return (files(PACKAGE) / name).read_text(encoding="utf-8")


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script. Escapes `</script`, which would end its element."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
