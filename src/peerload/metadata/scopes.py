"""What a principal may see: the sources of models that fit its patterns, and of others not even that they are there.

Where others are named, that is refused; where all are asked for, they are left out.
"""

from __future__ import annotations

from dataclasses import replace

from peerload.errors import NotAllowed
from peerload.metadata.directory.directory import Directory
from peerload.metadata.principals import Principal
from peerload.metadata.query import Query

__all__ = ["check_model", "scoped"]

_SHOWN = 200


def check_model(principal: Principal, model: str) -> None:
    """Raises `NotAllowed` for a model that is not in the principal's scope."""
    if not principal.covers(model):
        raise NotAllowed(f"model {_shown(model)} is not among those that {principal.name} may use")


def scoped(query: Query, principal: Principal, directory: Directory) -> Query:
    """The query as this principal may ask it. Raises `NotAllowed` where it names a model, or a source of one, that is not in
    its scope."""
    if principal.sees_all:
        return query
    for named in (query.identity_model, query.model_name):
        if named is not None:
            check_model(principal, named)
    if query.source_id is not None and query.identity_model is None:
        names = directory.models_of(query.source_id)
        if names and not any(map(principal.covers, names)):
            raise NotAllowed(f"source {_shown(query.source_id)} is of a model that {principal.name} may not use")
    return replace(query, models=principal.models)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}…"
