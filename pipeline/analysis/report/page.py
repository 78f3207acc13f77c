"""Shared parts of all HTML pages: template engine, style, and the plotting library, included in the file."""

from __future__ import annotations

import logging
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from envs.cache_folder import cache_directory, write_directory
from envs.durable import write_text
from envs.errors import InputError

logger = logging.getLogger(__name__)

PACKAGE = "pipeline.analysis.report"


def environment(package: str = PACKAGE) -> Environment:
    """Templates of `package`; those of the report (`head.html`, `figure.html`) can be imported."""
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
    """Vega, Vega-Lite and Vega-Embed as one script. Escapes `</script`, which would end its element.

    Bundling takes seconds, so the cache folder keeps the script.
    """
    import vl_convert

    kept = cache_directory() / "vega" / vl_convert.__version__ / "bundle.js"
    if kept.is_file():
        bundle = kept.read_text(encoding="utf-8")
    else:
        bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
        try:
            write_directory(kept.parent, lambda folder: write_text(folder / kept.name, bundle))
        except InputError as error:  # the page needs no cache, so it is no reason to fail
            logger.info("%s", error)
    return bundle.replace("</script", "<\\/script")
